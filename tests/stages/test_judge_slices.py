"""judge without Ray: several runs on one output, each with a slice of the queries; and long lists in blocks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rrad_ray import tables
from rrad_ray.config import GateConfig, JudgeConfig, LabelConfig, SimulatedConfig
from rrad_ray.errors import RradError
from rrad_ray.rows import Answer, Candidates, JudgeOutput, Labels
from rrad_ray.runtime import collector, judging
from rrad_ray.runtime.engine_rows import settled, to_answer
from rrad_ray.stages import judge, label
from rrad_ray.tables import status
from rrad_ray.tables.leases import Lease
from rrad_ray.tables.shards import Shard
from tests.fixtures import row_of, table_of


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan, the answers and the collecting are those of a run; only Ray Data between them is left out."""

    def answers(
        cfg: JudgeConfig, model: str, todo: Sequence[Shard], work: list[dict[str, Any]], *rest: Any
    ) -> Iterator[Any]:
        plan = judging.PlanPrompts(cfg, model, todo)
        for unit in work:
            yield from (to_answer(settled(row)) for row in plan(unit))

    monkeypatch.setattr(judging.cluster, "start_ray", lambda: None)
    monkeypatch.setattr(judging, "answer_stream", answers)
    monkeypatch.setattr(collector.RunMetrics, "export", lambda self: None)


def config(folder: Path, part: str, output: str = "judged") -> JudgeConfig:
    options = {
        "task": "order",
        "engine": "simulated",
        "shard_queries": 2,
        "gate": GateConfig(enabled=False, min_queries=3),
    }
    return JudgeConfig(input=f"{folder}/candidates", output=f"{folder}/{output}", slice=part, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [row_of(f"q{number}", [f"text {index}" for index in range(8)]) for number in range(13)]
    dev = [row | {"split": "dev", "qrel_ids": row["doc_ids"][5:6], "qrel_grades": [3]} for row in rows[:9]]  # type: ignore[index]
    table_of(tmp_path / "candidates", [*dev, *rows[9:]])
    return tmp_path


def test_slices_fill_one_table_each_query_once_also_where_a_slice_is_given_twice(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = f"{folder}/judged"
    judge.run(config(folder, "3/3"))
    parts = {name: os.stat(f"{output}/{name}").st_mtime_ns for name in tables.part_names(output)}
    assert list(parts) == [tables.part_name(number) for number in (2, 5)]
    assert "slice 3/3 is done; 5 parts of others are not" in capsys.readouterr().out
    judge.run(config(folder, "3/3"))
    assert "goes on: 2 of 2 parts stand" in capsys.readouterr().out
    with Lease(output, "judge", ".lease-1-of-3"):
        with pytest.raises(RradError, match=r"judge, process .* writes it"):
            judge.run(config(folder, "1/3"))
        judge.run(config(folder, "2/3"))
    shown = "\n".join(status.status_lines(status.of_run(output)))
    assert "judged 2-of-3  judge     slice done, 2 of 2 parts" in shown
    assert "judged 3-of-3  judge     slice done, 2 of 2 parts" in shown
    assert not tables.exists(f"{output}/manifest.json")
    for other in ("1/2", ""):
        with pytest.raises(RradError, match=r"holds the output of another config .*slices=3"):
            judge.run(config(folder, other))
    judge.run(config(folder, "1/3"))
    judge.run(config(folder, "2/3"))
    assert "already done, nothing to do" in capsys.readouterr().out
    assert {name: os.stat(f"{output}/{name}").st_mtime_ns for name in parts} == parts, "nothing was asked again"
    whole = judge.run(config(folder, "", "whole"))
    assert list(tables.read(output, JudgeOutput)) == list(tables.read(whole, JudgeOutput))
    facts, of_whole = (tables.read_manifest(uri).lineage.judge for uri in (output, whole))
    assert facts == of_whole
    assert facts is not None
    assert facts.gate["queries"] == 9, "the dev queries of all slices"
    left = {name for name in os.listdir(output) if not name.startswith(("part-", "progress-"))}
    assert left == {"started.json", "manifest.json"}


def test_dev_queries_that_stand_among_others_are_asked_first_and_nothing_else_where_the_labeller_fails(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every part holds some of them: all was paid for before the check."""
    rows = list(tables.read(f"{folder}/candidates", Candidates))
    scattered = table_of(folder / "scattered", [dict(rows[number]) for number in (9, 0, 10, 11, 1, 12, 2)])
    bad = SimulatedConfig(noise=50.0, missing=0.0, malformed=0.0)
    cfg = dataclasses.replace(config(folder, "", "first"), input=scattered, simulated=bad, shard_queries=4)
    asked = dataclasses.replace(cfg, gate=GateConfig(min_queries=3, max_p=1e-9))
    for _ in range(2):  # the second run finds their answers in the journal
        with pytest.raises(RradError, match=r"on 3 judged dev queries .* NOT worth its labels"):
            judge.run(asked)
        told = capsys.readouterr().out
        assert "the 3 dev queries stand among 4 others: they are asked first" in told
        journal = f"{asked.output}/{tables.JOURNAL}"
        answers = [row for name in tables.part_names(journal) for row in tables.read_part(journal, name, Answer)]
        assert {(row["part"], row["row"]) for row in answers} == {
            (tables.part_name(0), 1),
            (tables.part_name(1), 0),
            (tables.part_name(1), 2),
        }
        assert not tables.part_names(asked.output)
    assert "goes on: 3 answers" in told
    judge.run(dataclasses.replace(asked, gate=cfg.gate))
    whole = judge.run(dataclasses.replace(cfg, output=f"{folder}/whole"))
    assert list(tables.read(asked.output, JudgeOutput)) == list(tables.read(whole, JudgeOutput))


def test_a_labeller_that_passes_on_scattered_dev_queries_labels_the_rest_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(tables.read(f"{folder}/candidates", Candidates))
    scattered = table_of(folder / "scattered", [dict(rows[number]) for number in (9, 0, 10, 11, 1, 12, 2, 3)])
    gate = GateConfig(min_queries=3, max_p=0.9)
    cfg = dataclasses.replace(config(folder, "", "passed"), gate=gate, shard_queries=8)
    judge.run(dataclasses.replace(cfg, input=scattered))
    assert "asked first" not in capsys.readouterr().out, "half of the part is dev"
    more = table_of(folder / "more", [dict(rows[number]) for number in (9, 0, 10, 11, 1, 12, 2)])
    judge.run(dataclasses.replace(cfg, input=more, output=f"{folder}/passed-too"))
    told = capsys.readouterr().out
    assert "they are asked first" in told
    assert told.count("check: on 3 judged dev queries") == 1
    of_first, of_second = (
        {row["query_id"]: row for row in tables.read(f"{folder}/{name}", JudgeOutput)}
        for name in ("passed", "passed-too")
    )
    assert of_second == {name: of_first[name] for name in of_second}
    facts = tables.read_manifest(f"{folder}/passed-too").lineage.judge
    assert facts is not None
    assert facts.gate["queries"] == 3


def test_a_slice_is_a_number_of_a_number() -> None:
    for wrong in ("4/3", "0/3", "3", "a/b", "1/2/3"):
        with pytest.raises(ValueError, match="as in 3/12"):
            config(Path("x"), wrong)


def test_long_lists_are_asked_in_blocks_and_made_one_order(tmp_path: Path) -> None:
    rows = [row_of(f"q{number}", [f"text {index}" for index in range(20 + number)]) for number in range(3)]
    rows = [row | {"qrel_ids": row["doc_ids"][7:8], "qrel_grades": [1]} for row in rows]  # type: ignore[index]
    quiet = SimulatedConfig(noise=0.01, missing=0.0, malformed=0.0)
    cfg = JudgeConfig(
        input=table_of(tmp_path / "input", rows),
        output=f"{tmp_path}/judged",
        task="order",
        engine="simulated",
        simulated=quiet,
        block=6,
        repeats=2,
        gate=GateConfig(enabled=False),
    )
    judged = list(tables.read(judge.run(cfg), JudgeOutput))
    assert [len(row["responses"]) for row in judged] == [len(row["shown"]) for row in judged] == [8, 8, 8]
    labels = label.run(LabelConfig(cfg.output, f"{tmp_path}/labels", aggregate="bradley_terry"))
    for row in tables.read(labels, Labels):
        assert row["targets"].index(max(row["targets"])) == 7
        assert all(0.5 <= value < 1 for value in row["confidence"]), "win probabilities"


def test_uneven_lists_in_blocks_end_at_all_their_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The estimate by the mean length ended at 125 %."""
    rows = [row_of(f"q{number}", [f"text {index}" for index in range(9 if number % 3 else 3)]) for number in range(6)]
    options: dict[str, Any] = {"task": "order", "engine": "echo", "block": 4, "repeats": 2}
    judged = judge.run(JudgeConfig(table_of(tmp_path / "input", rows), f"{tmp_path}/judged", **options))
    count = sum(len(row["responses"]) for row in tables.read(judged, JudgeOutput))
    assert f"{count} of {count} prompts, 100 %" in capsys.readouterr().out
