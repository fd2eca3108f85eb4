"""The folder graph of docs/architecture.md: current, without a cycle, small; and the tool that writes it."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from tests.commands import ROOT


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("folder_graph", ROOT / "docs" / "folder_graph.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_graph_of_the_code(tool: ModuleType) -> None:
    page = tool.PAGE.read_text(encoding="utf-8")
    assert page == tool.written(page, tool.mermaid(tool.graph())), "run `make docs`"


def test_the_graph_has_no_cycle_and_at_most_14_folders(tool: ModuleType) -> None:
    arrows = tool.graph()
    assert tool.cycle(arrows) == []
    folders = {path.name for path in (ROOT / "rrad_ray").iterdir() if (path / "__init__.py").is_file()}
    assert folders <= set(arrows)
    assert 8 < len(folders) <= 14


def test_the_page_names_every_folder(tool: ModuleType) -> None:
    text = tool.PAGE.read_text(encoding="utf-8")
    for name in set(tool.graph()) - {tool.TOP, tool.CLI}:
        assert f"| `rrad_ray/{name}/` |" in text


def test_arrows_that_follow_from_others_are_left_out(tool: ModuleType) -> None:
    assert tool.reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_a_cycle_is_named(tool: ModuleType) -> None:
    assert tool.cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    with pytest.raises(ValueError, match="b -> c -> b"):
        tool.reduced({"a": {"b"}, "b": {"c"}, "c": {"b"}})


def test_a_page_without_markers_is_an_error(tool: ModuleType) -> None:
    with pytest.raises(ValueError, match="folder graph: begin"):
        tool.written("# A page", "graph")
