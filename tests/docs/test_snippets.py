"""The Python snippets of the documentation compile, and run where that is cheap. (Those of clients run in
tests/runtime/test_endpoint_clients.py.)"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rrad_ray import tables
from rrad_ray.config import ExportConfig, JudgeConfig, LabelConfig
from rrad_ray.rows import JudgeOutput, Labels
from rrad_ray.stages import label
from tests import endpoints
from tests.commands import ROOT
from tests.docs.markdown import Page, pages
from tests.fixtures import row_of

PAGES = pages()
EVERY = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


@EVERY
def test_every_python_snippet_compiles(page: Page) -> None:
    for block in page.blocks:
        if block.language == "python":
            compile(block.text, f"{page.name}:{block.line}", "exec")


SNIPPETS_RUN = ("README.md", "docs/quickstart.md", "docs/data.md", "docs/training.md")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, writer: str) -> Path:
    """A folder with `runs/` as the demo and the RRADistill recipe leave it, as far as the snippets read it."""
    folder = tmp_path_factory.mktemp("demo")
    endpoints.student(folder / "runs" / "demo" / "encoder" / "model")
    (folder / "runs" / "rradistill" / "decoder").mkdir(parents=True)
    os.symlink(writer, folder / "runs" / "rradistill" / "decoder" / "model")
    cfg = JudgeConfig(input="", output=str(folder / "runs" / "demo" / "judged"))
    out = tables.Output("judge", cfg, JudgeOutput, {})
    asked = {"task": "likelihood", "model": "", "shown": [], "responses": [], "reasons": []}
    counts = {"truncated": 0, "prompt_tokens": 9, "generated_tokens": 0}
    rows = [row_of(f"q{number}", ["adds numbers", "opens a file"]) for number in range(3)]
    out.write_all([{**row, **asked, **counts, "judge_scores": [-1.0, -2.0]} for row in rows], 100)
    out.commit()
    cfg_labels = LabelConfig(
        input=cfg.output, output=str(folder / "runs" / "demo" / "labels"), weights={"judge": 1.0}
    )
    label.run(cfg_labels)
    return folder


@pytest.mark.parametrize("name", SNIPPETS_RUN)
def test_every_python_snippet_runs(
    name: str, demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(demo)
    blocks = [block for block in Page(ROOT / name).blocks if block.language == "python"]
    assert blocks
    for block in blocks:
        exec(compile(block.text, f"{name}:{block.line}", "exec"), {"__name__": "snippet"})
        assert capsys.readouterr().out.strip(), f"{name}:{block.line}"


def test_the_stage_of_the_extending_page_is_a_stage(demo: Path, tmp_path: Path) -> None:
    blocks = [block for block in Page(ROOT / "docs" / "extending.md").blocks if "@tables.stage" in block.text]
    names: dict[str, Any] = {}
    exec(blocks[0].text, names)
    cfg = ExportConfig(input=str(demo / "runs" / "demo" / "labels"), output=str(tmp_path / "longest"))
    assert names["run"](cfg) == cfg.output == names["run"](cfg)
    assert list(tables.read(cfg.output, Labels)) == []


def test_the_loss_of_the_extending_page_equals_its_reference() -> None:
    from tests.training import test_losses as losses

    blocks = [block for block in Page(ROOT / "docs" / "extending.md").blocks if block.language == "python"]
    names = {name: getattr(losses, name) for name in ("Arrays", "mean", "pairs")}
    for block in blocks[:2]:
        exec(block.text, names)
    found = losses.arrays(0)
    value = names["hinge_squared"](*losses.tensors(found), tau=0.7)
    assert float(value.detach()) == pytest.approx(names["reference_hinge_squared"](found, tau=0.7))
