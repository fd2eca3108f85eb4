"""`collect`: which queries are new, which of them are judged, and what a night begins from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rrad_ray import cli, tables
from rrad_ray.config import CollectConfig, PrerankConfig
from rrad_ray.errors import NothingToDo, RradError
from rrad_ray.evaluation.night_history import read_nights
from rrad_ray.rows import Candidates, CollectedQuery, Exposure, PrerankOutput
from rrad_ray.stages import collect
from rrad_ray.stages.prerank import PrerankPart
from rrad_ray.tables import checkpoints, shards
from tests import winners
from tests.fixtures import row_of, table_of


def asked(folder: Path, texts: list[str], qrels: str = "") -> str:
    """A folder of queries, as the user's own log makes it."""
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": f"{folder.name}-{number}", "text": text} for number, text in enumerate(texts)]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    if qrels:
        (folder / "qrels" / "test.tsv").write_text(qrels)
    return str(folder)


def config(tmp_path: Path, night: str, source: str, **options: Any) -> CollectConfig:
    store = tmp_path / "store"
    if not store.exists():
        winners.write(store, "encoder", tmp_path / "encoder", {})
    given: dict[str, Any] = {"input": source, "output": f"{tmp_path}/{night}/new", "store": str(store)}
    return CollectConfig(night=night, **{**given, "min_queries": 1, **options})


def collected(cfg: CollectConfig) -> list[Any]:
    return list(tables.read(collect.run(cfg), CollectedQuery))


def decide(cfg: CollectConfig) -> None:
    """Leave what `publish` leaves of a night that is decided: its queries, below the store."""
    texts = [row["query"] for row in tables.read(cfg.output, CollectedQuery)]
    Path(cfg.store, "asked").mkdir(exist_ok=True)
    pq.write_table(pa.table({"query": texts}), f"{cfg.store}/asked/{cfg.night}.parquet")


def test_a_query_is_new_once_and_those_of_a_night_that_was_not_decided_are_new_again(tmp_path: Path) -> None:
    frozen = table_of(tmp_path / "frozen", [row_of("q", ["adds", "opens"])])  # "add two numbers"
    texts = ["Sort a list", "sort  a LIST?", "open a file", "Add two numbers!"]
    first = config(tmp_path, "1", asked(tmp_path / "a", texts), frozen=frozen, judged_share=0)
    assert {row["query"] for row in collected(first)} == {"Sort a list", "open a file"}
    source = asked(tmp_path / "b", [*texts, "parse json"])
    assert len(collected(config(tmp_path, "2", source, frozen=frozen))) == 3, "the first night is not decided"
    decide(first)
    [row] = collected(config(tmp_path, "3", source, frozen=frozen, judged_share=0))
    assert (row["query"], row["split"], row["query_id"]) == ("parse json", "unlabelled", "b-4")


def test_the_budget_leaves_the_rest_to_a_later_night_and_judged_queries_go_first(tmp_path: Path) -> None:
    texts = [f"query number {number}" for number in range(30)]
    source = asked(tmp_path / "a", texts, "a-7\t0\td1\t2\n")
    first = config(tmp_path, "1", source, max_queries=10)
    rows = collected(first)
    assert len(rows) == 10
    judged = next(row for row in rows if row["query_id"] == "a-7")
    assert (judged["split"], judged["qrel_ids"], judged["qrel_grades"]) == ("test", ["d1"], [2])
    decide(first)
    rest = collected(config(tmp_path, "2", source))
    assert {row["query"] for row in rows} | {row["query"] for row in rest} == set(texts)
    assert len(rest) == 20


def test_of_several_queries_of_one_text_the_judged_one_stands_for_all(tmp_path: Path) -> None:
    for judged in (0, 1, 2):
        source = asked(
            tmp_path / f"{judged}", ["buy shoes", "Buy shoes?", "BUY  SHOES"], f"{judged}-{judged}\t0\td1\t2\n"
        )
        [row] = collected(config(tmp_path, f"night-{judged}", source))
        assert (row["query_id"], row["split"], row["qrel_grades"]) == (f"{judged}-{judged}", "test", [2])


def test_the_same_share_is_set_apart_to_be_judged_whatever_else_is_asked(tmp_path: Path) -> None:
    texts = [f"query number {number}" for number in range(400)]
    options: dict[str, Any] = {"judged_share": 0.5, "dev_share": 0.5}
    whole = collected(config(tmp_path, "1", asked(tmp_path / "a", texts), **options))
    half = collected(config(tmp_path, "2", asked(tmp_path / "b", texts[::2]), max_queries=100, **options))
    split = {row["query"]: row["split"] for row in whole}
    assert len(half) == 100
    assert all(split[row["query"]] == row["split"] for row in half)
    for rows in (whole, half):
        shares = {kind: sum(row["split"] == kind for row in rows) / len(rows) for kind in ("dev", "test")}
        assert shares == pytest.approx({"dev": 0.25, "test": 0.25}, abs=0.09)


def test_the_queries_of_an_event_log_are_named_by_what_they_ask(tmp_path: Path) -> None:
    page: dict[str, Any] = {"request_id": "r", "experiment": "e", "unit": "u", "variant": "v", "doc_ids": ["d"]}
    pages = [
        page | {"query": text, "teams": [], "time": 1.0, "model": "m"} for text in ("Sort it", "sort it?", "", "b")
    ]
    pages.append(pages[0] | {"doc_ids": ["d", "d"], "query": "bad row"})
    (tmp_path / "log" / "exposures").mkdir(parents=True)
    schema = tables.schema_of(Exposure)
    pq.write_table(pa.Table.from_pylist(pages, schema), tmp_path / "log" / "exposures" / "0.parquet")
    cfg = config(tmp_path, "1", f"{tmp_path}/log", max_quarantined=0.5)
    rows = collected(cfg)
    assert {row["query"] for row in rows} == {"Sort it", "b"}
    assert {row["query_id"] for row in rows} == {"dd858040cac19885", "8472c2e34d854f75"}
    assert tables.read_manifest(cfg.output).quarantined == {"malformed row": 1}


def test_a_night_keeps_the_winner_that_it_began_from_and_goes_on_though_log_and_store_have_changed(
    tmp_path: Path,
) -> None:
    cfg = config(tmp_path, "1", asked(tmp_path / "a", ["one query", "two queries"]))
    rows = collected(cfg)
    decide(cfg)
    winners.write(tmp_path / "store", "another", tmp_path / "another", {})
    asked(tmp_path / "a" / "queries", ["three queries"])
    assert collected(cfg) == rows
    assert checkpoints.student_of(f"{cfg.output}/last") == f"{tmp_path}/encoder"
    (tmp_path / "encoder").mkdir()
    assert checkpoints.resolve(f"{cfg.output}/last") == f"{tmp_path}/encoder"


def test_a_winner_that_is_a_first_stage_is_no_model(tmp_path: Path) -> None:
    winner = {"system": "fusion", "student": "", "checkpoint": "", "weights": {"bm25": 1.0}}
    (tmp_path / "winner.json").write_text(json.dumps(winner))
    with pytest.raises(RradError, match="its winner, 'fusion', is a first stage, which has no student; name a model"):
        checkpoints.resolve(str(tmp_path))


def test_a_night_that_would_begin_from_a_first_stage_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    cfg = config(tmp_path, "1", asked(tmp_path / "a", ["sort a list"]))
    winner = {"system": "bm25", "student": "", "checkpoint": "", "weights": {"bm25": 1.0}}
    Path(cfg.store, "winner.json").write_text(json.dumps(winner))
    with pytest.raises(RradError, match=r"store: its winner, 'bm25', is a first stage, .*; set needs_student=false"):
        collect.run(cfg)
    assert len(collected(dataclasses.replace(cfg, needs_student=False))) == 1


@pytest.mark.parametrize("content", ["[1]", "5", '"fusion"'])
def test_a_winner_file_that_holds_no_object_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "winner.json").write_text(content)
    with pytest.raises(RradError, match=r"its winner\.json is no JSON object; run select again"):
        checkpoints.resolve(str(tmp_path))


def test_a_night_with_too_few_new_queries_ends_well_and_is_no_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = config(tmp_path, "1", asked(tmp_path / "a", ["one", "two"]), min_queries=3)
    with pytest.raises(NothingToDo, match="2 new queries among 2, of at least 3: a later night takes them"):
        collect.run(cfg)
    steps = {"collect": {key: getattr(cfg, key) for key in ("input", "output", "store", "night", "min_queries")}}
    steps["export"] = {"input": cfg.output, "output": f"{tmp_path}/none"}
    (tmp_path / "pipeline.yaml").write_text(json.dumps({"steps": steps}))
    assert cli.run_pipeline(f"{tmp_path}/pipeline.yaml", []) == {}
    assert "collect ends the run: 2 new queries among 2" in capsys.readouterr().out
    assert not Path(cfg.output, "manifest.json").exists()
    assert [(entry["night"], entry["decision"]) for entry in read_nights(cfg.store)] == [("1", "waits")]


def test_prerank_keeps_the_splits_that_it_is_told(tmp_path: Path) -> None:
    rows = [
        row_of(f"q{number}", ["adds", "opens"]) | {"split": split} for number, split in enumerate(("dev", "train"))
    ]
    given = table_of(tmp_path / "given", rows)
    cfg = PrerankConfig(given, f"{tmp_path}/out", source="bm25", splits=("dev", "test"))
    out = tables.Output("prerank", cfg, PrerankOutput, {})
    planned = shards.plan_shards(given, 10, Candidates)
    PrerankPart(cfg, "", out, planned).part(planned[0].part)
    assert [row["query_id"] for row in tables.read_part(out.uri, planned[0].part, PrerankOutput)] == ["q0"]
