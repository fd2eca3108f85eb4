"""Outputs stand apart from what stages read, on a local folder and on S3."""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any

import pytest

from rrad_ray import cli, tables
from rrad_ray.config import (
    EvaluateConfig,
    LabelConfig,
    PickConfig,
    PrerankConfig,
    RetrieveConfig,
    SelectConfig,
    TrainConfig,
)
from rrad_ray.config.catalog import STAGES
from rrad_ray.errors import RradError
from rrad_ray.stages import label
from rrad_ray.tables.apart import READ_KEYS
from tests.fixtures import row_of, table_of

WRITTEN = {"output", "publish"}  # places that a stage does not read


@pytest.mark.parametrize(
    ("given", "output", "how"),
    [
        ("F", "F", "is"),
        ("F", "F/", "is"),
        ("F/", "F", "is"),
        ("F", "F/out", "lies within"),
        ("F/in", "F", "holds"),
        ("F/in/part.run", "F/in", "holds"),
        ("F", "F2", ""),
        ("F/in", "F/out", ""),
        ("F-1", "F", ""),
    ],
)
@pytest.mark.parametrize("root", ["s3://b", "runs", "/runs", "./runs/../runs", "~/runs"])
def test_an_output_that_is_an_input_or_lies_within_or_above_one_is_refused(
    root: str, given: str, output: str, how: str
) -> None:
    cfg = LabelConfig(input=f"{root}/{given}", output=f"{root}/{output}")
    if not how:
        tables.check_apart(cfg)
        return
    with pytest.raises(RradError, match=f"the output {how} input={root}/{given}; choose an output beside") as caught:
        tables.check_apart(cfg)
    assert caught.value.place == f"{root}/{output}"


@pytest.mark.parametrize("again", ["F", "F/", "./F", "G/../F"])
def test_a_table_that_counts_once_has_one_name(again: str) -> None:
    others: list[LabelConfig | TrainConfig] = [
        LabelConfig(input="F", output="out", teachers={"b": "G"}),
        TrainConfig(input="F", output="out", more=["G"]),
    ]
    for cfg in others:
        tables.check_apart(cfg)
    twice: list[tuple[LabelConfig | TrainConfig, str, str]] = [
        (LabelConfig(input="F", output="out", teachers={"b": again}), "teachers.b", "input"),
        (LabelConfig(input="H", output="out", teachers={"a": "F", "b": again}), "teachers.b", "teachers.a"),
        (TrainConfig(input="F", output="out", more=[again]), "more.0", "input"),
        (TrainConfig(input="H", output="out", more=["F", again]), "more.1", "more.0"),
    ]
    for cfg, key, first in twice:
        with pytest.raises(RradError, match=f"^{re.escape(f'{key}={again}: is the table that {first} names')}"):
            tables.check_apart(cfg)


def test_links_and_dots_lead_to_the_place_that_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    for output in ("link", "link/out", f"{tmp_path}/data", "x/../data", "./data/", "data/a/../../link"):
        with pytest.raises(RradError, match="the output"):
            tables.check_apart(LabelConfig(input="data", output=output))


def test_every_place_of_a_config_counts_and_models_of_a_hub_and_bundled_ones_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused: list[tuple[Any, str]] = [
        (RetrieveConfig(data="d", output="o", qrels={"dev": "o/dev.qrels"}), "holds qrels.dev=o/dev.qrels"),
        (RetrieveConfig(data="d", output="o", run="o"), "is run=o"),
        (EvaluateConfig(input="i", output="o", students={"a": "o/a"}), "holds students.a=o/a"),
        (EvaluateConfig(input="i", output="o", runs={"a": "o/a.run"}), "holds runs.a=o/a.run"),
        (TrainConfig(input="i", output="o", more=["a", "o/b"]), "holds more.1=o/b"),
        (PrerankConfig("i", "o/s", student="o"), "lies within student=o"),
        (PrerankConfig("i", "o", pick=PickConfig(without=["o/l"])), "holds pick.without.0=o/l"),
        (TrainConfig(input="i", output="s3://b/m", model="s3://b/m"), "is model=s3://b/m"),
    ]
    for cfg, how in refused:
        with pytest.raises(RradError, match=how):
            tables.check_apart(cfg)
    tables.check_apart(TrainConfig(input="/i", output=".", model="Qwen/Qwen3-0.6B"))
    tables.check_apart(RetrieveConfig(data="pydoc:", output="."))
    (tmp_path / "Qwen/Qwen3-0.6B").mkdir(parents=True)
    with pytest.raises(RradError, match=r"holds model=Qwen/Qwen3-0\.6B"):
        tables.check_apart(TrainConfig(input="/i", output=".", model="Qwen/Qwen3-0.6B"))


def test_every_key_of_a_stage_that_takes_a_uri_is_compared() -> None:
    for name, (schema, _) in STAGES.items():
        if name == "serve":
            continue
        hints = typing.get_type_hints(schema, include_extras=True)
        uris = {key for key, hint in hints.items() if "check_uri" in str(hint) or "_uri" in str(hint)}
        assert {"output"} < uris <= {*READ_KEYS, *WRITTEN}, name


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_nothing_is_written_into_an_input_that_is_the_output_too(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    uri = str(tmp_path / "table") if kind == "local" else f"{request.getfixturevalue('s3_uri')}/table"
    table_of(uri, [row_of("q1", ["adds numbers", "opens files"])])
    before = sorted(tables.data_files(uri), key=str)
    for output in (uri, f"{uri}/", f"{uri}/out"):
        with pytest.raises(RradError, match="the output"):
            label.run(LabelConfig(input=uri, output=output, weights={"bm25": 1.0}))
    assert sorted(tables.data_files(uri), key=str) == before
    assert not tables.exists(f"{uri}/out")


def test_a_pipeline_with_such_a_step_or_two_steps_of_one_output_ends_before_its_first(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    step = "{{input: {0}, output: {1}, weights: {{bm25: 1}}}}"
    path.write_text(f"steps:\n  label: {step.format('a', 'b')}\n  export: {{input: b, output: b/c}}\n")
    with pytest.raises(RradError, match="the output lies within input=b"):
        cli.build_steps(str(path), [])
    path.write_text(
        f"steps:\n  label: {step.format('a', 'b')}\n"
        f"  again: {{stage: label, input: a, output: ./b/, weights: {{bm25: 2}}}}\n"
    )
    with pytest.raises(RradError, match=r"again: writes \./b/, as label does; give every step an output") as caught:
        cli.build_steps(str(path), [])
    assert caught.value.stage == "config"


def test_a_report_is_not_published_over_the_one_that_is_read(tmp_path: Path) -> None:
    for folder in ("r", "r/", "r/within"):
        with pytest.raises(RradError, match="lies within input=r, whose report it would replace"):
            tables.check_apart(SelectConfig("r", "w", publish=folder))
    for folder in ("", "w", ".", "p"):
        tables.check_apart(SelectConfig("r", "w", publish=folder))


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        (
            "evaluate: {input: c, output: e}\n  b: {stage: evaluate, input: c, output: e/quarantine}",
            "as evaluate does",
        ),
        (
            "a: {stage: select, input: e, output: w, publish: e2}\n  b: {stage: evaluate, input: c, output: e2}",
            "publishes into e2 of b",
        ),
        (
            "select: {input: e, output: w}\n  evaluate: {input: c, output: e}",
            "reads input=e, which the later step evaluate",
        ),
        (
            "student: {stage: train, input: c, output: s, model: w/model, losses: {ranknet: 1}}\n"
            "  warm: {stage: train, input: c, output: w, model: org/hub, losses: {ranknet: 1}}",
            "reads model=w/model, which the later step warm",
        ),
        (
            "serve: {input: w}\n  evaluate: {input: c, output: e}",
            "serve: serves until it is ended, and steps follow it; put it last",
        ),
    ],
)
def test_steps_that_write_into_each_other_or_stand_in_the_wrong_order_end_a_pipeline_before_its_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipeline.yaml").write_text(f"steps:\n  {steps}\n")
    with pytest.raises(RradError, match=problem):
        cli.build_steps("pipeline.yaml", [])


def test_what_a_later_step_made_in_an_earlier_run_may_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e").mkdir()
    steps = "select: {input: e, output: w}\n  evaluate: {input: c, output: e}"
    (tmp_path / "pipeline.yaml").write_text(f"steps:\n  {steps}\n")
    assert len(cli.build_steps("pipeline.yaml", [])) == 2


def test_an_output_on_s3_with_an_empty_name_in_it_is_refused() -> None:
    """With `out=s3://bucket/runs/` a pipeline wrote where neither `rrad status` nor a run without the slash looks."""
    with pytest.raises(RradError, match=r"s3://bucket/runs//candidates: has '//' in it.*; write one slash"):
        tables.check_apart(RetrieveConfig(data="pydoc:", output="s3://bucket/runs//candidates"))
    tables.check_apart(RetrieveConfig(data="s3://bucket//collection", output="s3://bucket/runs/candidates/"))
    tables.check_apart(RetrieveConfig(data="pydoc:", output="runs//candidates"))
