"""What a run would do with an output that an earlier version has written, before there were some of today's keys, or
that somebody has put files into."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rrad_ray import tables
from rrad_ray.config import (
    ChunksConfig,
    EvaluateConfig,
    FinetuneConfig,
    JudgeConfig,
    PickConfig,
    PrerankConfig,
    RetrieveConfig,
    TrainConfig,
)
from rrad_ray.errors import RradError
from rrad_ray.rows import PrerankOutput
from rrad_ray.stages import evaluate, finetune, judge, prerank, retrieve, train
from rrad_ray.tables import claims
from rrad_ray.tables.claims import claim_of
from rrad_ray.tables.fingerprints import fingerprint
from tests.fixtures import row_of


def earlier(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write a file as a version without some keys would have written it."""
    content = json.loads(file.read_text())
    change(content["config"])
    file.write_text(json.dumps(content))


def without_new_keys(config: dict[str, Any]) -> None:
    for key in ("student", "pick", "splits"):
        del config[key]
    del config["chunks"]["most"]


@pytest.mark.parametrize(("file", "state"), [("manifest.json", "finished"), ("started.json", "resume")])
def test_an_output_without_keys_that_came_later_is_the_same_run_while_they_have_their_defaults(
    file: str, state: str, tmp_path: Path
) -> None:
    cfg = PrerankConfig("given", str(tmp_path / "out"), chunks=ChunksConfig(tokens=16))
    out = tables.Output("prerank", cfg, PrerankOutput, {})
    out.write_part(tables.part_name(0), [{**row_of("q1", ["a", "b"]), "best_chunks": []}])
    if file == "manifest.json":
        out.commit(rows=1)
    earlier(tmp_path / "out" / file, without_new_keys)
    assert claim_of(cfg, {}).state == state
    for more in ({"pick": PickConfig(share=0.5)}, {"chunks": ChunksConfig(tokens=16, most=3)}):
        other = PrerankConfig("given", cfg.output, **{"chunks": cfg.chunks, **more})  # type: ignore[arg-type]
        with pytest.raises(RradError, match=f"holds the output of another config .{next(iter(more))}="):
            tables.Output("prerank", other, PrerankOutput, {})


def test_a_mapping_of_the_users_own_is_not_filled_with_the_defaults_of_one(tmp_path: Path) -> None:
    cfg = TrainConfig("given", str(tmp_path / "out"), losses={"margin_mse": 1.0})
    out = tables.Output("train", cfg, None, {})
    out.commit()
    earlier(tmp_path / "out" / "manifest.json", lambda config: config.pop("more"))
    assert claim_of(cfg, {}).state == "finished"


def test_a_key_that_is_gone_still_tells_two_runs_apart(tmp_path: Path) -> None:
    cfg = PrerankConfig("given", str(tmp_path / "out"))
    tables.Output("prerank", cfg, PrerankOutput, {}).commit(rows=0)
    earlier(tmp_path / "out" / "manifest.json", lambda config: config.update(window=3))
    assert claim_of(cfg, {}).reason == "holds the output of another config (window=3 -> None)"


@pytest.mark.parametrize("name", ["part-00000 (1).parquet", "part-00000-old.parquet", "part-0.parquet"])
def test_a_run_does_not_go_on_beside_a_copy_of_a_part_whose_rows_would_come_twice(name: str, tmp_path: Path) -> None:
    cfg = PrerankConfig("given", str(tmp_path / "out"))
    out = tables.Output("prerank", cfg, PrerankOutput, {})
    out.write_part(tables.part_name(0), [{**row_of("q1", ["a", "b"]), "best_chunks": []}])
    shutil.copy(tmp_path / "out" / tables.part_name(0), tmp_path / "out" / name)
    assert claim_of(cfg, {}).state == "refused"
    with pytest.raises(RradError, match="parts that no stage has written"):
        tables.Output("prerank", cfg, PrerankOutput, {})
    (tmp_path / "out" / name).unlink()
    assert claim_of(cfg, {}).state == "resume"


def test_a_run_that_begins_and_ends_while_another_one_looks_is_no_run_without_a_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, genuine = PrerankConfig("given", str(tmp_path / "out")), claims.find_started

    def then_another_one_writes_it(uri: str) -> claims.Started | None:
        monkeypatch.setattr(claims, "find_started", genuine)
        before = genuine(uri)
        out = tables.Output("prerank", cfg, PrerankOutput, {})
        out.write_part(tables.part_name(0), [{**row_of("q1", ["a", "b"]), "best_chunks": []}])
        out.commit(rows=1)
        return before

    monkeypatch.setattr(claims, "find_started", then_another_one_writes_it)
    assert claim_of(cfg, {}).state == "finished"


def test_a_student_whose_weights_have_changed_is_another_input(uri_of_student: str) -> None:
    before = fingerprint(uri_of_student)
    assert fingerprint(uri_of_student) == before
    tables.write_text(f"{uri_of_student}/model/model.safetensors", "two")
    assert fingerprint(uri_of_student).partition("-")[0] == before.partition("-")[0]
    assert fingerprint(uri_of_student) != before


@pytest.fixture
def uri_of_student(tmp_path: Path) -> str:
    """An output of train, as far as it is a model."""
    folder = f"{tmp_path}/student"
    tables.write_text(f"{folder}/model/config.json", "{}")
    tables.write_text(f"{folder}/model/model.safetensors", "one")
    tables.Output("train", TrainConfig(input="labels", output=folder), None, {}).commit()
    return folder


def test_a_model_in_a_folder_is_an_input_of_every_stage_that_starts_from_it(uri_of_student: str) -> None:
    given = {"input": "in", "output": "out"}
    configs: list[tuple[Any, Any]] = [
        (train.run, TrainConfig(**given, model=uri_of_student)),
        (finetune.run, FinetuneConfig(**given, model=uri_of_student)),
        (judge.run, JudgeConfig(**given, model=uri_of_student)),
        (prerank.run, PrerankConfig(**given, model=uri_of_student)),
        (retrieve.run, RetrieveConfig("data", "out", model=uri_of_student)),
    ]
    for run, cfg in configs:
        assert run.inputs(cfg)["model"] == uri_of_student
        for name in ("bundled:all-minilm-l6-v2", "Qwen/Qwen3-0.6B", f"{uri_of_student}-gone"):
            assert run.inputs(dataclasses.replace(cfg, model=name))["model"] == ""
    asked = JudgeConfig(**given, model=uri_of_student, engine="openai", task="order")
    assert judge.run.inputs(asked)["model"] == "", "an endpoint's name for it"
    runs = EvaluateConfig(**given, runs={"ours": "ours.trec"})
    assert evaluate.run.inputs(runs)["run.ours"] == "ours.trec"


def test_an_input_that_an_earlier_version_did_not_take_down_refuses_nothing(tmp_path: Path) -> None:
    tables.write_text(f"{tmp_path}/model", "weights")
    cfg = PrerankConfig("in", f"{tmp_path}/out", source="bm25")
    tables.Output("prerank", cfg, PrerankOutput, {}).commit()
    assert tables.Output("prerank", cfg, PrerankOutput, {"model": f"{tmp_path}/model"}).finished


def test_a_link_to_a_folder_is_named_for_its_files_would_be_left_out(tmp_path: Path) -> None:
    tables.write_text(f"{tmp_path}/elsewhere/rows.parquet", "rows")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "day=1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RradError, match="is a link to a folder, which is not followed") as caught:
        tables.data_files(f"{tmp_path}/log")
    assert caught.value.place == f"{tmp_path}/log/day=1"
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    assert [file.name for file in tables.data_files(f"{tmp_path}/linked")] == ["rows.parquet"]
