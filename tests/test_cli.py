"""The command line: help, resolved configs, dry runs and JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rrad_ray import cli, tables
from rrad_ray.errors import RradError
from rrad_ray.rows import Labels
from tests.commands import PATIENCE_S, ROOT, RRAD
from tests.fixtures import row_of, table_of

PIPELINE = """
out: ???
steps:
  label: {input: "${out}/candidates", output: "${out}/labels", weights: {bm25: 1.0}}
  export: {input: "${out}/labels", output: "${out}/exported"}
"""


def rrad(*arguments: str) -> str:
    """Run the command in this process; its stdout."""
    result = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def pipeline(tmp_path: Path) -> tuple[str, Path]:
    """A pipeline of two steps, and its folder with real candidates."""
    row = row_of("q1", ["adds numbers", "opens files"]) | {"split": "train", "source_scores": [[2.0, 1.0]]}
    table_of(tmp_path / "candidates", [row])
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    return str(tmp_path / "pipeline.yaml"), tmp_path


def test_help_of_a_stage_lists_its_keys_with_type_default_and_meaning() -> None:
    text = rrad("judge", "--help")
    assert "doc_tokens: int >= 1 = 96" in text
    assert "gate.enabled: bool = true" in text
    assert "Standard deviation of what is added to a document's grade, anew in each answer." in text


def test_help_needs_neither_torch_nor_ray() -> None:
    program = (
        "import sys; from rrad_ray import cli; print(sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stdout.strip() == "[]"


def test_show_prints_the_resolved_config_and_runs_nothing(tmp_path: Path) -> None:
    text = rrad(
        "label", str(ROOT / "configs/label.yaml"), "input=a", f"output={tmp_path}/b", "weights={bm25: 2}", "--show"
    )
    assert "aggregate: borda" in text
    assert "weights:\n  bm25: 2.0" in text
    assert not (tmp_path / "b").exists()


def test_a_dry_run_says_what_each_step_would_do_and_touches_nothing(pipeline: tuple[str, Path]) -> None:
    path, folder = pipeline
    before = sorted(folder.rglob("*"))
    plan = json.loads(rrad("run", path, f"out={folder}", "--dry-run", "--json"))
    assert [(step["step"], step["state"]) for step in plan] == [("label", "new"), ("export", "waits")]
    assert plan[1]["reason"] == "runs after label"
    assert sorted(folder.rglob("*")) == before
    cli.run_pipeline(path, [f"out={folder}"])
    assert len(list(tables.read(str(folder / "labels"), Labels))) == 1
    plan = json.loads(rrad("run", path, f"out={folder}", "--dry-run", "--json"))
    assert [step["state"] for step in plan] == ["finished", "finished"]
    text = rrad("run", path, f"out={folder}", "steps.label.weights.bm25=2", "--dry-run")
    assert "label   would be refused: holds the output of another config (weights={'bm25': 1.0}" in text
    assert "export  would not run: label is refused" in text


def test_a_dry_run_waits_for_the_student_that_another_begins_from(tmp_path: Path) -> None:
    table_of(tmp_path / "candidates", [row_of("q1", ["adds numbers", "opens files"]) | {"split": "train"}])
    step = f"stage: train, input: {tmp_path}/candidates, losses: {{ranknet: 1}}"
    (tmp_path / "pipeline.yaml").write_text(
        f"steps:\n  warm: {{{step}, output: {tmp_path}/w, model: 'bundled:minilm'}}\n"
        f"  student: {{{step}, output: {tmp_path}/s, model: {tmp_path}/w/model}}\n"
    )
    plan = json.loads(rrad("run", str(tmp_path / "pipeline.yaml"), "--dry-run", "--json"))
    assert [(step["state"], step["reason"]) for step in plan] == [("new", ""), ("waits", "runs after warm")]


def test_a_dry_run_names_a_missing_input(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    text = rrad("run", str(tmp_path / "pipeline.yaml"), f"out={tmp_path}", "--dry-run")
    assert "label   would be refused" in text
    assert "nothing there" in text


def test_json_of_a_run_names_every_output_and_keeps_stdout_to_itself(pipeline: tuple[str, Path]) -> None:
    path, folder = pipeline
    command = [*RRAD, "run", path, f"out={folder}", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert json.loads(done.stdout) == {"label": f"{folder}/labels", "export": f"{folder}/exported"}
    assert "[label] done" in done.stderr


def test_json_of_status_holds_the_state_of_every_output(pipeline: tuple[str, Path]) -> None:
    path, folder = pipeline
    cli.run_pipeline(path, [f"out={folder}"])
    states = json.loads(rrad("status", str(folder), "--json"))
    assert {(state["name"], state["stage"], state["state"]) for state in states} >= {("labels", "label", "done")}


def test_plan_reads_an_experiments_config_without_its_paths(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("name: t\nvariants: {old: 1, new: 1}\nmetric: page_ctr\nmin_units: 200\n")
    assert "in all, to find a lift of +5.0%" in rrad("plan", str(tmp_path / "e.yaml"))


def test_a_template_whose_answers_would_be_misread_ends_a_pipeline_before_its_first_step(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "task: order\nmessages: [{role: user, content: '{query} {documents}'}]\njoiner: '~'\n"
    )
    judge = f"{{input: a, output: b, task: order, template: {tmp_path}/own.yaml}}"
    (tmp_path / "pipeline.yaml").write_text(f"steps:\n  judge: {judge}\n")
    with pytest.raises(RradError, match="reads 1 > 2 > 3 from an answer") as caught:
        cli.build_steps(str(tmp_path / "pipeline.yaml"), [])
    assert (caught.value.stage, caught.value.place) == ("config", f"{tmp_path}/own.yaml:3")


@pytest.mark.parametrize("port", ["70000", "0", "-1"])
def test_doctor_refuses_what_is_no_port(port: str) -> None:
    done = CliRunner().invoke(cli.app, ["doctor", "--port", port])
    assert (done.exit_code, "--port" in done.output) == (2, True)
