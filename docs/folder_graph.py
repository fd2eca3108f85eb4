"""Write the folder graph of docs/architecture.md (Mermaid) from the imports in the syntax tree of rrad_ray.

    python docs/folder_graph.py          # rewrite the page
    python docs/folder_graph.py --check  # exit code 1 if the page is not current

An arrow `a --> b` says that a module in folder `a` imports one in folder `b`. Arrows that follow from others are left
out (transitive reduction); modules directly under `rrad_ray/` are the folder `rrad_ray`, except for `cli.py`.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "rrad_ray"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- folder graph: begin -->", "<!-- folder graph: end -->"
TOP = "vocabulary"  # modules directly under rrad_ray/
CLI = "cli"

Graph = dict[str, set[str]]


def folder_of(parts: tuple[str, ...]) -> str:
    """Return the folder of a module given as name parts below the package, such as `("training", "loop")`."""
    if not (ROOT / PACKAGE / parts[0]).is_dir():
        return CLI if parts[0] == CLI else TOP
    return parts[0]


def imported(path: Path) -> set[tuple[str, ...]]:
    """Return the name parts below the package of everything of ours that a file imports, also inside functions."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(
            node.value, str
        ):  # `importlib.import_module("rrad_ray...")`
            names += re.findall(rf"^{PACKAGE}\.[a-z_]+(?=\.)", node.value)
    split = (tuple(name.split(".")) for name in names)
    return {parts[1:] for parts in split if parts[0] == PACKAGE and len(parts) > 1}


def graph(root: Path = ROOT) -> Graph:
    """Return which folders each folder imports; the package's own `__init__.py` is left out, it imports lazily."""
    arrows: Graph = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        if parts == ("__init__",):
            continue
        here = folder_of(parts)
        arrows.setdefault(here, set())
        arrows[here] |= {folder_of(other) for other in imported(path)} - {here}
    return arrows


def cycle(arrows: Graph) -> list[str]:
    """Return a cycle of folders, its first folder repeated at the end; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for other in sorted(arrows.get(name, ())):
            if circle := visit(other, [*trail, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in sorted(arrows) if (circle := visit(name, []))), [])


def reduced(arrows: Graph) -> Graph:
    """Return the arrows that do not follow from others. Raises `ValueError` if there is a cycle."""
    if circle := cycle(arrows):
        raise ValueError(f"folders import each other: {' -> '.join(circle)}")

    def reach(name: str) -> set[str]:
        return {name}.union(*(reach(other) for other in arrows.get(name, ())))

    return {
        name: {other for other in others if not any(other in reach(third) for third in others - {other})}
        for name, others in arrows.items()
    }


def mermaid(arrows: Graph) -> str:
    """Return the block that stands between the markers of the page."""
    lines = ["```mermaid", "flowchart TD"]
    lines += [
        f"    {name} --> {other}" for name, others in sorted(reduced(arrows).items()) for other in sorted(others)
    ]
    return "\n".join([BEGIN, *lines, "```", END])


def written(page: str, block: str) -> str:
    """Return the page with the block between its markers. Raises `ValueError` without markers."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE} has no {BEGIN} ... {END}")
    return head + block + tail


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    wanted = written(page, mermaid(graph()))
    if "--check" in sys.argv[1:]:
        return int(page != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
