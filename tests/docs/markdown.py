"""Markdown pages of the documentation, taken apart: links, headings, code, and the commands in it."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.commands import ROOT

_FENCE = re.compile(r"^\s*```(\w*)\s*$")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_SPAN = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_HEADING = re.compile(r"^(#{1,6})\s+(.*)$")


@dataclass(frozen=True)
class Block:
    """A block of code: its language (empty without a fence), its text, and its first line's number from 1."""

    language: str
    text: str
    line: int


class Page:
    """A page: `prose` (lines that are no code), `blocks` (fenced or indented code) and `spans` (inline code)."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.relative_to(ROOT).as_posix()
        self.text = path.read_text(encoding="utf-8")
        self.blocks: list[Block] = []
        prose: list[str] = []
        fence, held, began = None, list[str](), 0
        for number, line in enumerate([*self.text.splitlines(), ""], 1):
            mark = _FENCE.match(line)
            if fence is not None:
                if mark:
                    self.blocks.append(Block(fence, textwrap.dedent("\n".join(held)), began))
                    fence, held = None, []
                else:
                    held.append(line)
            elif mark:
                fence, held, began = mark[1], [], number + 1
            elif line.startswith("    ") and (held or not (prose and prose[-1].strip())):
                began = began if held else number
                held.append(line[4:])
            else:
                if held:
                    self.blocks.append(Block("", "\n".join(held), began))
                    held = []
                prose.append(line)
        assert fence is None, f"{self.name}: a fence that is not closed"
        self.prose = "\n".join(prose)
        self.spans = [" ".join(match[2].split()) for match in _SPAN.finditer(self.prose)]
        self.links = _LINK.findall(_SPAN.sub("", self.prose))
        self.anchors = self._anchors()

    def _anchors(self) -> set[str]:
        """The anchors of the headings, as GitHub makes them."""
        seen: Counter[str] = Counter()
        anchors = set()
        for line in self.prose.splitlines():
            if heading := _HEADING.match(line):
                title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[2])
                anchor = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
                anchors.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
                seen[anchor] += 1
        return anchors

    def commands(self) -> list[list[str]]:
        """All shell commands of the page as words: those of its blocks, with lines continued by a backslash joined
        and comments left out, and inline code."""
        shell = [block.text for block in self.blocks if block.language in ("", "sh", "bash", "shell")]
        lines = [line for text in shell for line in re.sub(r"\\\n\s*", " ", text).splitlines()]
        found = []
        for line in [*lines, *self.spans]:
            try:
                found.append(shlex.split(line, comments=True))
            except ValueError:  # no shell: a line of a request body, a quotation mark in prose
                continue
        return [words for words in found if words]


def pages() -> list[Page]:
    """The documentation: README, CONTRIBUTING, docs/ and the index of benchmarks/."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]
    return [Page(path) for path in [*files, *sorted((ROOT / "docs").rglob("*.md"))]]


def client_snippets() -> list[tuple[str, str]]:
    """The client snippets of docs/serving.md: the client's name, from the first comment, and the program."""
    blocks = [block.text for block in Page(ROOT / "docs" / "serving.md").blocks if block.language == "python"]
    parts = [text.partition("\n") for text in blocks if text.startswith("# ")]
    return [(head.removeprefix("# "), body + "\n") for head, _, body in parts]
