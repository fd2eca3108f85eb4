"""The house stays readable: limits of size, one meaning for a name, a docstring for everything public."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import ROOT

FILE_LINES, FUNCTION_LINES, CLASS_LINES = 350, 40, 200
# Names that stand in several modules on purpose: each stage has a `run`, each module that logs its `logger`.
SHARED_NAMES = {"run", "logger"}
# Words that say nothing about what they name. An error names a `place`: a URI, a line of a file, a key of a config.
VAGUE = {"found", "place", "places", "told", "made", "mine", "fine"}
NAMES_A_PLACE = {"errors.py", "config/load.py", "data/trec.py"}
OPENINGS = ("What ", "How ", "Whether ", "Those ", "The same ")
FILES = {path.relative_to(ROOT / "rrad_ray").as_posix(): path for path in sorted((ROOT / "rrad_ray").rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
EVERY = pytest.mark.parametrize("name", FILES)
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(name: str) -> Iterator[Definition]:
    return (node for node in ast.walk(TREES[name]) if isinstance(node, Definition))


def lines(node: Definition) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def is_public(node: ast.AST) -> bool:
    return isinstance(node, Definition) and not node.name.startswith("_")


@EVERY
def test_a_file_a_function_and_a_class_can_be_read_in_one_go(name: str) -> None:
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= FILE_LINES
    for node in definitions(name):
        limit = CLASS_LINES if isinstance(node, ast.ClassDef) else FUNCTION_LINES
        assert lines(node) <= limit, f"{node.name} has {lines(node)} lines"


def test_a_public_name_is_defined_in_one_module() -> None:
    modules = defaultdict(set)
    for name, tree in TREES.items():
        for node in tree.body:
            if is_public(node):
                modules[node.name].add(name)  # type: ignore[attr-defined]
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name) and not target.id.startswith("_") and target.id != "__all__":
                    modules[target.id].add(name)
    shared = {name: sorted(where) for name, where in modules.items() if len(where) > 1}
    assert shared.keys() <= SHARED_NAMES, shared


@EVERY
def test_a_variable_is_called_after_what_it_holds(name: str) -> None:
    vague = VAGUE - {"place"} if name in NAMES_A_PLACE else VAGUE
    for node in ast.walk(TREES[name]):
        word = ""
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            word = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            word = node.attr
        elif isinstance(node, ast.arg):
            word = node.arg
        assert word not in vague, f"line {node.lineno}: {word}"  # type: ignore[attr-defined]


@EVERY
def test_everything_public_has_a_docstring_that_begins_with_a_statement(
    name: str,
) -> None:
    opening = ast.get_docstring(TREES[name]) or ""
    assert opening, "the module"
    assert not opening.startswith(OPENINGS), opening.splitlines()[0]
    for node in definitions(name):
        docstring = ast.get_docstring(node) or ""
        assert not docstring.startswith(OPENINGS), f"{node.name}: {docstring.splitlines()[0]}"
    for node in TREES[name].body:
        if is_public(node):
            assert ast.get_docstring(node), node.name  # type: ignore[arg-type, attr-defined]


def test_the_limits_are_looked_at() -> None:
    assert len(FILES) > 80
    assert Path("training/losses.py").as_posix() in FILES
