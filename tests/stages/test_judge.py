"""judge and label with the real engine: messy answers, the gate, bad rows."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rrad_ray import tables
from rrad_ray.config import GateConfig, JudgeConfig, LabelConfig, OpenAIConfig, PrerankConfig
from rrad_ray.errors import RradError
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.rows import Candidates, JudgeOutput, Labels
from rrad_ray.runtime import collector, judging
from rrad_ray.runtime.dev_first import DevFirst
from rrad_ray.stages import judge, label, prerank
from rrad_ray.tables import checkpoints
from rrad_ray.tables.shards import Shard
from tests.fixtures import ENGINE, row_of, table_of

pytestmark = pytest.mark.ray


def test_listwise_answers_of_a_real_small_model_are_parsed_set_aside_or_counted(short: str, tmp_path: Path) -> None:
    some = table_of(tmp_path / "some", list(tables.read(short, Candidates))[:24])
    cfg = JudgeConfig(
        input=some,
        output=f"{tmp_path}/orders",
        task="order",
        doc_tokens=24,
        max_tokens=48,
        gate=GateConfig(enabled=False, min_queries=5),
        **ENGINE,
    )
    judge.run(cfg)
    rows = list(tables.read(cfg.output, JudgeOutput))
    assert len(rows) == 24
    for row in rows:
        assert [sorted(shown) for shown in row["shown"]] == [list(range(len(row["doc_ids"])))]
        assert row["generated_tokens"] > 0
        assert row["cut"] in ([], [True])
        assert row["generated_tokens"] >= 48 or not row["cut"]
    assert any(row["cut"] for row in rows), "a small model writes on until its limit"
    assert any(row["shown"] != [sorted(row["shown"][0])] for row in rows), "the input was not shuffled"
    label.run(LabelConfig(input=cfg.output, output=f"{tmp_path}/labels", max_quarantined=1.0))
    labelled = list(tables.read(f"{tmp_path}/labels", Labels))
    manifest = tables.read_manifest(f"{tmp_path}/labels")
    assert sum(manifest.facts["answers"].values()) == len(rows)
    assert manifest.lineage.labels is not None
    assert manifest.lineage.labels.label_quality["answers"] == manifest.facts["answers"]
    assert len(labelled) + sum(manifest.quarantined.values()) == len(rows)
    for row in labelled:
        lowest = [target for target, gone in zip(row["targets"], row["missing"], strict=True) if gone]
        ranked = [target for target, gone in zip(row["targets"], row["missing"], strict=True) if not gone]
        assert not lowest or max(lowest) < min(ranked)


@pytest.mark.slow
def test_a_fine_tuned_teacher_scores_by_vllm_as_by_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ranker = Ranker.decoder(checkpoints.resolve(checkpoints.BUNDLED[1]), max_length=64, layers=2).eval()
    ranker.save(f"{tmp_path}/teacher")
    rows = [
        row_of("a", ["adds two numbers", "a red car " * 40]),
        row_of("b", ["sorts a list", "opens a file", "a sky"]),
    ]
    engine = {**ENGINE, "engine_kwargs": ENGINE["engine_kwargs"] | {"dtype": "float32"}}
    output = judge.run(
        JudgeConfig(
            input=table_of(tmp_path / "input", rows),
            output=f"{tmp_path}/scores",
            task="score",
            model=f"{tmp_path}/teacher",
            gate=GateConfig(enabled=False),
            **engine,
        )
    )
    for row in tables.read(output, JudgeOutput):
        assert row["judge_scores"] == pytest.approx(ranker.score(row["query"], row["texts"]), abs=1e-3)
    assert [row["truncated"] for row in tables.read(output, JudgeOutput)] == [1, 0]


# ---- without the engine -------------------------------------------------------------------------------------


def test_judge_stops_with_the_reason_when_the_labeller_is_not_worth_its_labels(short: str, tmp_path: Path) -> None:
    cfg = JudgeConfig(
        input=short, output=f"{tmp_path}/echo", engine="echo", task="order", gate=GateConfig(min_queries=5)
    )
    with pytest.raises(RradError, match="NOT worth its labels"):
        judge.run(cfg)
    assert not tables.exists(f"{cfg.output}/manifest.json")


def test_a_run_of_millions_is_not_cut_into_more_units_than_rays_driver_can_schedule() -> None:
    def shards(count: int) -> list[Shard]:
        return [Shard(f"part-{n}", "file", 0, 250, False, 5000) for n in range(count)]

    assert judging.least_rows(shards(80)) == 1, "20,000 queries: a unit is as small as two batches"
    assert judging.least_rows(shards(4000)) == 50, "a million queries: 20,000 units"


@pytest.mark.parametrize(("concurrency", "rows"), [(1, 1), (4, 1), (32, 4), (400, 50)])
def test_an_endpoints_units_are_so_small_that_a_killed_run_loses_little(concurrency: int, rows: int) -> None:
    """With 64 prompts in a unit, a run of 128 had no durable answer when 111 had come."""
    options: dict[str, Any] = {"engine": "openai", "task": "order", "openai": OpenAIConfig(concurrency=concurrency)}
    cfg, shard = JudgeConfig("in", "out", **options), Shard("part-0", "file", 0, 128, False, 128 * 20)
    collected = cast(Any, SimpleNamespace(answered=lambda part: []))
    sizes = [len(unit["rows"]) for unit in judging.units_of(cfg, [shard], collected, DevFirst(), False)]
    assert (sizes[0], max(sizes), sum(sizes)) == (rows, rows, 128)


def test_echo_labels_are_marked_as_simulated(short: str, tmp_path: Path) -> None:
    output = _echo(short, tmp_path)
    assert "no labels" in tables.read_manifest(output).lineage.simulated


def test_a_query_without_candidates_is_set_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    source = table_of(tmp_path / "input", [row_of("empty", []), row_of("good", ["one", "two"])])
    output = _echo(source, tmp_path, max_quarantined=0.5)
    assert [row["query_id"] for row in tables.read(output, JudgeOutput)] == ["good"]
    assert sum(tables.read_manifest(output).quarantined.values()) == 1


def test_a_single_document_has_its_order_without_an_answer_and_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = table_of(tmp_path / "input", [row_of("one", ["alone"]), row_of("two", ["here", "there"])])
    output = _echo(source, tmp_path, repeats=3)
    asked = {row["query_id"]: len(row["responses"]) for row in tables.read(output, JudgeOutput)}
    assert asked == {"one": 0, "two": 3}
    assert tables.read_manifest(output).facts["single_documents"] == 1
    assert "1 queries have one document: nothing to order, so the LLM was not asked" in capsys.readouterr().out
    labels = label.run(LabelConfig(input=output, output=f"{tmp_path}/labels"))
    [row] = (row for row in tables.read(labels, Labels) if row["query_id"] == "one")
    assert (row["targets"], row["missing"], row["confidence"], row["parse_status"]) == ([1.0], [False], [1.0], [])


def test_too_many_bad_rows_stop_the_run_and_stay_readable(tmp_path: Path) -> None:
    source = table_of(tmp_path / "input", [row_of("empty", []), row_of("good", ["one", "two"])])
    with pytest.raises(RradError, match="1 of 2 rows are bad"):
        _echo(source, tmp_path, max_quarantined=0.1)
    assert tables.part_names(f"{tmp_path}/judgments/quarantine")


def test_a_missing_column_is_named_with_stage_place_and_remedy(tmp_path: Path) -> None:
    source = table_of(tmp_path / "input", [row_of("good", ["one", "two"])])
    part = f"{source}/part-00000.parquet"
    pq.write_table(pq.read_table(part).drop_columns(["texts"]), part)
    manifest = Path(source, "manifest.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"parts": None}))  # by another program
    says = r"judge: .*part-00000.parquet: has no column 'texts' .*name the output of retrieve or prerank"
    with pytest.raises(RradError, match=says):
        _echo(source, tmp_path)


def test_an_engine_that_no_node_can_hold_is_an_error_not_a_hang(short: str, tmp_path: Path) -> None:
    cfg = JudgeConfig(input=short, output=f"{tmp_path}/gpu", resources={"GPU": 64})
    with pytest.raises(RradError, match=r"ask for .*GPU"):
        judge.run(cfg)


def test_a_model_path_that_does_not_exist_is_named(short: str, tmp_path: Path) -> None:
    cfg = JudgeConfig(input=short, output=f"{tmp_path}/none", model="./no/such/model", resources={"CPU": 1})
    with pytest.raises(RradError, match="no such model folder"):
        judge.run(cfg)


def test_no_answer_for_stall_s_ends_the_run_with_the_reason() -> None:
    def hung():  # type: ignore[no-untyped-def]
        yield {"row": 1}
        time.sleep(30)

    rows = collector._watched(hung(), 0.3, 0.1)
    assert next(rows) == {"row": 1}
    assert next(rows) is None, "nobody could make durable what has come"
    with pytest.raises(RradError, match="no answer for"):
        list(rows)


def test_label_refuses_a_weight_for_a_source_that_is_not_there(tmp_path: Path) -> None:
    output = _echo(table_of(tmp_path / "input", [row_of("good", ["one", "two"])]), tmp_path)
    with pytest.raises(RradError, match=r"weights.splade.*choose from judge, bm25"):
        label.run(LabelConfig(input=output, output=f"{tmp_path}/labels", weights={"splade": 1.0}))


def test_orders_fused_with_the_first_stage_are_aggregated_as_the_config_says(tmp_path: Path) -> None:
    texts = ["[1] > [2] > [3] > [4]"] * 3 + ["[2] > [3] > [4] > [1]"] * 2  # Copeland: 1, Borda: 2
    judged = {"task": "order", "model": "m", "shown": [[0, 1, 2, 3]] * 5, "responses": texts, "judge_scores": []}
    judged |= {"reasons": [], "truncated": 0, "prompt_tokens": 1, "generated_tokens": 1}
    out = tables.Output("judge", JudgeConfig(input="", output=f"{tmp_path}/judgments"), JudgeOutput, {})
    out.write_all([row_of("a", ["one", "two", "three", "four"]) | judged], 1)
    judgments = out.commit()
    best = {}
    for method in ("borda", "copeland"):
        options = {"aggregate": method, "weights": {"judge": 1.0}}
        labels = label.run(LabelConfig(input=judgments, output=f"{tmp_path}/{method}", **options))  # type: ignore[arg-type]
        [row] = tables.read(labels, Labels)
        best[method] = row["targets"].index(max(row["targets"]))
    assert best == {"borda": 1, "copeland": 0}


def _scored(folder: Path, scores: list[list[float]]) -> str:
    """Judgments by a teacher with a score for each of two documents a query."""
    judged = {"task": "score", "model": "m", "shown": [], "responses": [], "reasons": []}
    judged |= {"truncated": 0, "prompt_tokens": 1, "generated_tokens": 0}
    rows = [row_of(str(n), ["one", "two"]) | judged | {"judge_scores": pair} for n, pair in enumerate(scores)]
    out = tables.Output("judge", JudgeConfig(input="", output=str(folder)), JudgeOutput, {})
    out.write_all(rows, 1)
    return out.commit()


def test_scores_keep_their_scale_over_the_table_where_the_config_says_so_and_the_manifest_says_which(
    tmp_path: Path,
) -> None:
    scored, sigma = _scored(tmp_path / "scored", [[10.0, 12.0], [2.0, 0.0]]), 26**0.5
    expected = {"query": [[-1, 1], [1, -1]], "table": [[4 / sigma, 6 / sigma], [-4 / sigma, -6 / sigma]]}
    scales = {"query": {"over": "query"}, "table": {"over": "table", "mean": 6.0, "deviation": sigma}}
    for scale, targets in expected.items():
        cfg = LabelConfig(scored, f"{tmp_path}/{scale}", weights={"judge": 1.0}, scale=scale)
        rows = list(tables.read(label.run(cfg), Labels))
        assert [row["targets"] for row in rows] == [pytest.approx(pair, rel=1e-5) for pair in targets]
        assert tables.read_manifest(cfg.output).facts["scale"] == pytest.approx(scales[scale])
    with pytest.raises(ValueError, match="sources differ in scale; name one"):
        LabelConfig(scored, "", weights={"judge": 1.0, "bm25": 1.0}, scale="table")


@pytest.mark.parametrize("scale", ["query", "table"])
def test_a_teacher_whose_scores_have_collapsed_stops_with_a_message(tmp_path: Path, scale: str) -> None:
    scored = _scored(tmp_path / "scored", [[0.25, 0.25]] * 3)
    says = {"query": "the same target, in each of 3 queries", "table": r"all 6 scores of 'judge' are about 0.25"}
    with pytest.raises(RradError, match=says[scale]):
        label.run(LabelConfig(scored, f"{tmp_path}/labels", weights={"judge": 1.0}, scale=scale))
    assert not tables.exists(f"{tmp_path}/labels/manifest.json")


def _foreign(folder: Path) -> str:
    """Someone's own folder: a good row, one that lists a document twice (in `split=dev`), and a ragged one."""
    for name, query_id, doc_ids, texts in (
        ("a", "good", ["a", "b"], ["one", "two"]),
        ("split=dev/b", "again", ["a", "b", "a"], ["one", "two", "three"]),
        ("c", "ragged", ["a", "b", "c"], ["one", "two"]),
    ):
        (folder / f"{name}.parquet").parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"query_id": [query_id], "query": ["q"], "doc_ids": [doc_ids], "texts": [texts]})
        pq.write_table(table, folder / f"{name}.parquet")
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "part-0.parquet").write_bytes(b"half of one")
    return str(folder)


def test_of_a_foreign_folder_ragged_rows_are_set_aside_and_a_document_counts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = _echo(_foreign(tmp_path / "input"), tmp_path, max_quarantined=0.5)
    rows = {row["query_id"]: row for row in tables.read(output, JudgeOutput)}
    assert {key: (row["split"], row["doc_ids"], row["texts"]) for key, row in rows.items()} == {
        "good": ("unlabelled", ["a", "b"], ["one", "two"]),
        "again": ("dev", ["a", "b"], ["one", "two"]),
    }
    manifest = tables.read_manifest(output)
    assert manifest.quarantined == {"ragged row": 1}
    assert manifest.facts["repeated_documents"] == 1
    assert "1 times a query lists a document again: the first one counts" in capsys.readouterr().out


def test_prerank_reads_a_foreign_folder_as_judge_does(tmp_path: Path) -> None:
    source = _foreign(tmp_path / "input")
    cfg = PrerankConfig(source, f"{tmp_path}/short", top_k=1, bottom_k=1, max_quarantined=0.5)
    rows = {row["query_id"]: row for row in tables.read(prerank.run(cfg), Candidates)}
    assert {key: (row["split"], sorted(row["doc_ids"])) for key, row in rows.items()} == {
        "good": ("unlabelled", ["a", "b"]),
        "again": ("dev", ["a", "b"]),
    }
    manifest = tables.read_manifest(cfg.output)
    assert (manifest.quarantined, manifest.facts["repeated_documents"]) == ({"ragged row": 1}, 1)


def test_label_sets_a_ragged_row_of_its_input_aside(tmp_path: Path) -> None:
    rows = [row_of("good", ["one", "two"]), row_of("ragged", ["one", "two"]) | {"texts": ["one"]}]
    again = row_of("again", ["one", "two"]) | {"doc_ids": ["a", "a"]}
    source = table_of(tmp_path / "input", [*rows, again])
    output = label.run(LabelConfig(source, f"{tmp_path}/labels", weights={"bm25": 1.0}, max_quarantined=0.5))
    kept = {row["query_id"]: row["doc_ids"] for row in tables.read(output, Labels)}
    assert kept == {"good": ["good-0", "good-1"], "again": ["a"]}
    assert tables.read_manifest(output).quarantined == {"ragged row": 1}


def _echo(source: str, tmp_path: Path, **options: object) -> str:
    cfg = JudgeConfig(
        input=source,
        output=f"{tmp_path}/judgments",
        engine="echo",
        task="order",
        gate=GateConfig(enabled=False),
        **options,  # type: ignore[arg-type]
    )
    return judge.run(cfg)


def test_answers_of_a_template_with_a_regex_become_labels_and_reasons_read_by_it(tmp_path: Path) -> None:
    text = (
        "task: order\nmessages: [{role: user, content: '{query} {documents}'}]\nidentifier: '<doc>{letter}</doc>'\n"
        "joiner: ' '\nregex: '<doc>(?P<id>[A-Z]+)</doc>'\n"
    )
    (tmp_path / "own.yaml").write_text(text)
    rows = [row_of(f"q{number}", ["adds numbers", "opens files", "sorts"]) for number in range(4)]
    template = {"template": f"{tmp_path}/own.yaml", "shuffle": False}
    judged = _echo(table_of(tmp_path / "candidates", rows), tmp_path, **template)
    assert next(tables.read(judged, JudgeOutput))["responses"] == ["<doc>A</doc> <doc>B</doc> <doc>C</doc>"]
    manifest = tables.read_manifest(judged)
    assert manifest.lineage.judge is not None
    assert manifest.lineage.judge.answer_regex == "<doc>(?P<id>[A-Z]+)</doc>"
    gate = GateConfig(enabled=False)
    why = {"input": judged, "output": f"{tmp_path}/why", "model": "another/model"}
    explain = JudgeConfig(**why, engine="echo", task="explain", gate=gate)
    for source in (judged, judge.run(explain)):
        labels = label.run(LabelConfig(input=source, output=f"{source}-labels"))
        (first, *others) = tables.read(labels, Labels)
        assert len(others) == 3
        assert first["parse_status"] == ["ok"]
        assert first["targets"][0] > first["targets"][1] > first["targets"][2]
    assert next(tables.read(explain.output, JudgeOutput))["reasons"] == ["echo"] * 3
    assert tables.read_manifest(explain.output).lineage.judge == manifest.lineage.judge, "who explains labels nothing"
    (tmp_path / "own.yaml").write_text(text.replace("{query} ", "Query {query} "))
    with pytest.raises(RradError, match=r"holds the output of another config \(template_digest="):
        _echo(f"{tmp_path}/candidates", tmp_path, **template)


def test_manifest_is_json_that_other_tools_read(short: str) -> None:
    with open(f"{short}/manifest.json", encoding="utf-8") as file:
        assert json.load(file)["stage"] == "prerank"
