"""The whole job, small: real LLM, real students, report, winner, endpoint; on local disk and on S3."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rrad_ray import cli, tables
from rrad_ray.config import ChunksConfig, EvaluateConfig, LabelConfig, PrerankConfig, RetrieveConfig, SelectConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation import fusion
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.rows import Candidates, JudgeOutput, Labels, Ranking, by_source
from rrad_ray.stages import evaluate, label, prerank, retrieve, select
from rrad_ray.tables import checkpoints
from tests.commands import PATIENCE_S, ROOT, RRAD
from tests.fixtures import row_of, rrad, table_of
from tests.heads import Head, free_port

pytestmark = pytest.mark.ray

SMALL = [
    "train=0",
    "num_workers=1",
    "unlabelled=16",
    "dev=16",
    "test=16",
    "doc_tokens=32",
    "depth=3",
    "steps.judge.gate.min_queries=5",
    "steps.judge.gate.enabled=false",
    "steps.warm.layers=2",
    "steps.warm.max_steps=5",
    "steps.encoder.max_steps=20",
    "steps.decoder.layers=1",
    "steps.decoder.max_steps=5",
    "steps.decoder.losses={point_mse: 0.5, margin_mse: 0.5}",
    "steps.evaluate.latency_repeats=5",
    "steps.select.max_p99_ms=60000",
]


DECODER = {
    "stage": "train",
    "input": "${out}/labels",
    "output": "${out}/decoder",
    "kind": "decoder",
    "model": "bundled:smollm2-135m-instruct",
    "docs_per_query": 6,
    "top_docs": 3,
    "queries_per_step": 3,
    "num_workers": "${num_workers}",
    "resources": {"CPU": 1},
}


def pipeline_of_both(folder: Path) -> str:
    """Write the BEIR pipeline with a decoder student too; return its path."""
    demo, beir = (OmegaConf.load(ROOT / "configs" / name / "pipeline.yaml") for name in ("demo", "beir"))
    del beir["base"]
    both: Any = OmegaConf.to_container(OmegaConf.merge(demo, beir))
    steps = list(both["steps"].items())
    at = [name for name, _ in steps].index("evaluate")
    both["steps"] = dict([*steps[:at], ("decoder", DECODER), *steps[at:]])
    both["steps"]["evaluate"]["students"]["decoder"] = "${out}/decoder"
    OmegaConf.save(OmegaConf.create(both), folder / "pipeline.yaml")
    return str(folder / "pipeline.yaml")


@pytest.fixture(scope="module")
def job(beir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """One `rrad run` of the BEIR pipeline with both students; its folder, what it printed, and the pipeline."""
    folder = tmp_path_factory.mktemp("job")
    out, pipeline = folder / "run", pipeline_of_both(folder)
    port = f"steps.serve.port={free_port()}"
    done = rrad("run", pipeline, f"data={beir}", f"out={out}", port, *SMALL)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return out, done.stdout, pipeline


def test_a_pre_ranker_with_too_few_positions_is_an_error_before_a_cluster_starts(short: str, tmp_path: Path) -> None:
    with pytest.raises(RradError, match="max_length: 600 tokens, and the model takes 512; set max_length to 512"):
        prerank.run(PrerankConfig(input=short, output=f"{tmp_path}/none", max_length=600))


def test_the_job_leaves_every_table_with_a_manifest_and_says_where(job: tuple[Path, str, str]) -> None:
    out, said, _ = job
    for name in (
        "candidates",
        "short",
        "judged",
        "labels",
        "free",
        "warm",
        "encoder",
        "decoder",
        "report",
        "winner",
    ):
        assert (out / name / "manifest.json").is_file()
        assert f"-> {out}/{name}" in said
    assert len({row["query_id"] for row in tables.read(f"{out}/judged", JudgeOutput)}) == 48
    for row in tables.read(f"{out}/labels", Labels):
        assert len(row["targets"]) == len(row["texts"])


def test_the_report_has_every_system_with_quality_and_cost(job: tuple[Path, str, str]) -> None:
    out, _, _ = job
    report = json.loads((out / "winner" / "report.json").read_text())
    systems = {system["system"]: system for system in report["systems"]}
    assert {"bm25", "dense", "fusion", "teacher", "encoder", "decoder", "encoder+first"} <= set(systems)
    for name in ("bm25", "dense", "fusion", "teacher", "encoder", "decoder", "encoder+first"):
        system = systems[name]
        for metric in ("nDCG@10", "MRR@10"):
            value = system["metrics"][metric]
            assert 0 <= value["low"] <= value["mean"] <= value["high"] <= 1
        assert system["latency_ms"]["p50"] <= system["latency_ms"]["p99"]
        assert system["documents_per_s"] > 0
        assert system["parameters"] is not None
    winner = json.loads((out / "winner" / "winner.json").read_text())
    assert report["winner"]["system"] == winner["system"] in systems
    assert report["winner"]["reason"]
    best = max(systems[name]["metrics"]["nDCG@10"]["mean"] for name in ("bm25", "dense", "fusion"))
    assert winner["value"] >= best, "the first stage wins where no student is as good"
    assert winner["finding"].startswith("The first stage wins") == (not winner["student"])
    assert json.loads((out / "report.json").read_text()) == report, "the folder of the run has it too"
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert not re.search(r"""(src|href)=["']?https?:""", page)


def test_the_rankings_table_agrees_with_the_report(job: tuple[Path, str, str]) -> None:
    out, _, _ = job
    report = json.loads((out / "report" / "report.json").read_text())
    rows = [row for row in tables.read(f"{out}/report", Ranking) if row["system"] == "encoder"]
    mean = sum(row["ndcg_10"] for row in rows) / len(rows)
    [encoder] = [system for system in report["systems"] if system["system"] == "encoder"]
    assert mean == pytest.approx(encoder["metrics"]["nDCG@10"]["mean"])


def test_the_endpoint_answered_a_real_query(job: tuple[Path, str, str]) -> None:
    assert re.search(r"\[serve\].*127\.0\.0\.1", job[1])


def test_both_students_load_in_plain_transformers(job: tuple[Path, str, str]) -> None:
    for name in ("encoder", "decoder"):
        folder = job[0] / name / "model"
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        tokens = AutoTokenizer.from_pretrained(folder)("a query", "a document", return_tensors="pt")
        assert model(**tokens).logits.shape == (1, 1)
    ranker = Ranker.load(str(job[0] / "decoder" / "model"), dtype="float32")
    assert ranker.tokenizer.decode(ranker.encode(["one"], ["two"])[0]["input_ids"]).startswith(
        "Query: one\nDocument: two"
    )


def test_the_same_command_again_has_nothing_to_do_and_a_changed_one_is_refused(
    job: tuple[Path, str, str], beir: Path
) -> None:
    out, _, pipeline = job
    arguments = ["run", pipeline, f"data={beir}", f"out={out}", *SMALL]
    again = rrad(*arguments, f"steps.serve.port={free_port()}")
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.count("already done") == 10
    changed = rrad(*arguments, "steps.label.weights={judge: 1}")
    assert changed.returncode == 2
    assert "choose a new output" in changed.stderr
    assert "Traceback" not in changed.stderr


# ---- S3, jobs, bad input ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_stage_to_a_student_runs_on_s3_as_on_a_local_disk(beir: Path, s3_uri: str, tmp_path: Path) -> None:
    fs, path = tables.filesystem(f"{s3_uri}/beir")
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/dev.tsv", "qrels/test.tsv"):
        fs.put_file(str(beir / name), f"{path}/{name}")
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text(
        f"""
steps:
  retrieve: {{data: "{s3_uri}/beir", output: "{s3_uri}/candidates", rows_per_part: 16}}
  prerank: {{input: "{s3_uri}/candidates", output: "{s3_uri}/short", source: dense}}
  judge:
    input: "{s3_uri}/short"
    output: "{s3_uri}/judgments"
    engine: echo
    task: order
    gate: {{enabled: false}}
  label: {{input: "{s3_uri}/judgments", output: "{s3_uri}/labels"}}
  train:
    input: "{s3_uri}/labels"
    output: "{s3_uri}/student"
    layers: 1
    max_length: 32
    max_steps: 3
    queries_per_step: 4
    eval_queries: 4
    losses: {{ranknet: 1.0}}
"""
    )
    # A process of its own: the workers of a cluster that other tests have started do not know this S3's address.
    done = rrad("run", str(pipeline))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert tables.exists(f"{s3_uri}/student/model/model.safetensors")
    assert Ranker.load(checkpoints.resolve(f"{s3_uri}/student"), dtype="float32").score("a", ["b"])
    rows = list(tables.read(f"{s3_uri}/labels", Labels))
    assert len({row["query_id"] for row in rows}) == 96


def test_a_job_submitted_to_a_cluster_gives_its_result(short: str, tmp_path: Path, head: Head) -> None:
    job = [sys.executable, "jobs/judge.py", "configs/judge.yaml", f"input={short}", f"output={tmp_path}/judgments"]
    submit = [
        "ray",
        "job",
        "submit",
        "--address",
        head.dashboard,
        "--",
        *job,
        "engine=echo",
        "task=order",
        "gate.enabled=false",
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**head.env, "PATH": path, "PYTHONPATH": str(ROOT)}
    for _ in range(20):  # the job agent of a fresh head is some seconds late
        done = subprocess.run(submit, capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT, env=environment)
        if "No available agent" not in done.stdout + done.stderr:
            break
        time.sleep(2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    asked = sorted(row["query_id"] for row in tables.read(short, Candidates))
    assert sorted(row["query_id"] for row in tables.read(f"{tmp_path}/judgments", JudgeOutput)) == asked


@pytest.mark.slow
def test_prometheus_reads_the_figures_of_a_run_while_it_labels(tmp_path: Path, head: Head) -> None:
    rows = [
        {"query_id": f"q{n}", "query": f"sort {n}", "doc_ids": ["a", "b"], "texts": ["sorts", "prints"]}
        for n in range(6000)
    ]
    (tmp_path / "input").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "input" / "rows.parquet")
    job = ["judge", "configs/judge.yaml", f"input={tmp_path}/input", f"output={tmp_path}/judgments", "engine=echo"]
    command = [*RRAD, *job, "task=order"]
    found: dict[str, float] = {}
    process = subprocess.Popen(command, cwd=ROOT, env=head.env, stdout=subprocess.DEVNULL)
    end = time.monotonic() + PATIENCE_S
    while not found.get("queries") and time.monotonic() < end:
        time.sleep(0.5)
        with contextlib.suppress(OSError):
            text = urllib.request.urlopen(head.metrics, timeout=5).read().decode()
            pattern = rf"^ray_rrad_judge_(\w+)\{{[^}}]*output=\"{tmp_path}/judgments\"[^}}]*\}} ([0-9.e+]+)$"
            found = {name: float(value) for name, value in re.findall(pattern, text, re.MULTILINE)}
    assert process.wait(timeout=PATIENCE_S) == 0
    assert {"queries_per_s", "missing_share", "repaired_share", "rejected_share", "tokens_per_query"} <= set(found)
    assert found["queries"] > 0
    assert found["rejected_share"] == 0


def test_prerank_by_a_model_orders_as_retrieve_did_with_the_same_model(short: str, tmp_path: Path) -> None:
    output = prerank.run(PrerankConfig(input=short, output=f"{tmp_path}/again", top_k=3, bottom_k=2))
    for before, after in zip(tables.read(short, Candidates), tables.read(output, Candidates), strict=True):
        dense = dict(zip(before["doc_ids"], before["source_scores"][before["sources"].index("dense")], strict=True))
        assert after["scores"] == pytest.approx([dense[doc_id] for doc_id in after["doc_ids"]], abs=0.02)
    first = tables.lineage_of(output).first_stage
    assert first is not None
    assert list(first.encoders) == ["dense", "prerank"], "the endpoint can compute both"
    assert first.encoders["prerank"] == first.encoders["dense"]
    chunked = PrerankConfig(input=output, output=f"{tmp_path}/chunks", chunks=ChunksConfig(tokens=8))
    first = tables.lineage_of(prerank.run(chunked)).first_stage
    assert first is not None
    assert list(first.encoders) == ["dense"], "the scores of a pre-ranker before it are gone"
    by_source = PrerankConfig(input=output, output=f"{tmp_path}/by-bm25", source="bm25")
    assert tables.lineage_of(prerank.run(by_source)) == tables.lineage_of(output), "they stay"


def test_prerank_keeps_top_and_bottom_but_judged_splits_whole(short: str) -> None:
    sizes = {split: set() for split in ("dev", "test", "train", "unlabelled")}
    for row in tables.read(short, Candidates):
        sizes[row["split"]].add(len(row["doc_ids"]))
        assert row["scores"] == sorted(row["scores"], reverse=True)
    assert max(sizes["unlabelled"] | sizes["train"]) == 5
    assert max(sizes["dev"] | sizes["test"]) > 5


def test_prerank_names_a_source_that_is_not_there(short: str, tmp_path: Path) -> None:
    with pytest.raises(RradError, match="no source 'splade' among bm25, dense"):
        prerank.run(PrerankConfig(input=short, output=f"{tmp_path}/none", source="splade"))


def test_candidates_that_no_judge_has_seen_are_labelled_by_their_sources_alone(short: str, tmp_path: Path) -> None:
    fixed = {"bm25": 0.5, "dense": 1.0}
    rows = list(tables.read(label.run(LabelConfig(input=short, output=f"{tmp_path}/labels", weights=fixed)), Labels))
    assert [row["query_id"] for row in rows] == [row["query_id"] for row in tables.read(short, Candidates)]
    for row in rows:
        wanted = fusion.zscores(fusion.fuse(by_source(row), fixed))
        assert row["targets"] == pytest.approx(list(wanted))
        assert (row["parse_status"], any(row["missing"])) == ([], False)
    fitted = label.run(LabelConfig(input=short, output=f"{tmp_path}/fitted"))
    labels = tables.read_manifest(fitted).lineage.labels
    assert labels is not None
    assert set(labels.weights) <= {"bm25", "dense"}
    with pytest.raises(RradError, match=r"weights.judge: no such source; choose from bm25, dense"):
        label.run(LabelConfig(input=short, output=f"{tmp_path}/none", weights={"judge": 1.0}))


def judged(number: int, split: str, grades: dict[str, int]) -> dict[str, Any]:
    """A query of three candidates, `N-0` the first stage's best, and its judgments."""
    row = row_of(str(number), ["one", "two", "three"])
    query = f"query {number}"  # of one text, those of dev and test would be the only ones
    return {**row, "query": query, "split": split, "qrel_ids": list(grades), "qrel_grades": list(grades.values())}


def test_judged_grades_become_the_labels_of_a_teacher_of_ones_own(tmp_path: Path) -> None:
    rows = [
        judged(0, "train", {"0-2": 3, "0-0": 1, "elsewhere": 2}),
        judged(1, "train", {"1-1": 1}),
        judged(2, "unlabelled", {}),
        judged(3, "dev", {"3-1": 1}),
    ]
    candidates = table_of(tmp_path / "candidates", rows)
    cfg = LabelConfig(input=candidates, output=f"{tmp_path}/labels", targets="grades")
    first, dev = tables.read(label.run(cfg), Labels)
    assert (first["doc_ids"], first["texts"], first["targets"]) == (["0-0", "0-2"], ["one", "three"], [1.0, 3.0])
    assert (first["scores"], first["source_scores"], first["missing"]) == ([0.0, -2.0], [[0.0, -2.0]], [False, False])
    assert (dev["query_id"], dev["targets"], dev["missing"]) == ("3", [0.0, 1.0, 0.0], [True, False, True])
    assert tables.read_manifest(cfg.output).facts["passed_over"] == {"no judgment": 1, "no preference": 1}

    whole = label.run(LabelConfig(candidates, f"{tmp_path}/whole", targets="grades", unjudged="negative"))
    assert [row["targets"] for row in tables.read(whole, Labels)] == [[1, 0, 3], [0, 1, 0], [0, 1, 0]]

    with pytest.raises(RradError, match=r"no query to learn from.*1 with no judgment.*set unjudged=negative"):
        label.run(LabelConfig(table_of(tmp_path / "few", rows[1:]), f"{tmp_path}/none", targets="grades"))


def test_a_run_of_ones_own_is_taken_as_it_is_and_a_query_without_candidates_set_aside(
    beir: Path, tmp_path: Path
) -> None:
    ids = [json.loads(line)["_id"] for line in (beir / "corpus.jsonl").read_text().splitlines()]
    queries = [json.loads(line)["_id"] for line in (beir / "queries.jsonl").read_text().splitlines()]
    lines = [
        f"{query} Q0 {ids[(number + place) % len(ids)]} {place + 1} {10 - place} mine"
        for number, query in enumerate(queries[1:])
        for place in range(3)
    ]
    (tmp_path / "mine.run").write_text("\n".join(lines))
    cfg = RetrieveConfig(data=str(beir), run=f"{tmp_path}/mine.run", output=f"{tmp_path}/candidates")
    rows = {row["query_id"]: row for row in tables.read(retrieve.run(cfg), Candidates)}
    assert set(rows) == set(queries[1:])
    row = rows[queries[1]]
    assert row["doc_ids"] == [ids[place % len(ids)] for place in range(3)]
    assert row["source_scores"][row["sources"].index("run")] == [10, 9, 8]
    assert tables.read_manifest(cfg.output).quarantined == {"no candidates": 1}


def test_a_file_of_candidates_is_taken_as_it_is_and_bad_lines_are_counted(tmp_path: Path) -> None:
    documents = [{"docid": "a", "score": 1, "doc": "prints"}, {"docid": "b", "score": 2, "doc": "sorts in place"}]
    lines = [json.dumps({"query": {"qid": n, "text": "sort"}, "candidates": documents}) for n in (7, 8, 9)]
    (tmp_path / "requests.jsonl").write_text("\n".join([*lines, "{"]))
    (tmp_path / "qrels").write_text("7 0 b 2\n")
    options = {"data": f"{tmp_path}/requests.jsonl", "max_quarantined": 0.5, "qrels": {"dev": f"{tmp_path}/qrels"}}
    cfg = RetrieveConfig(output=f"{tmp_path}/candidates", queries={"unlabelled": 1}, **options)
    first, second = tables.read(retrieve.run(cfg), Candidates)
    assert (first["doc_ids"], first["sources"], first["split"]) == (["b", "a"], ["run"], "dev")
    assert (first["qrel_ids"], second["query_id"], second["split"]) == (["b"], "8", "unlabelled")
    assert tables.read_manifest(cfg.output).quarantined == {"malformed JSON": 1}
    (tmp_path / "mine.run").write_text("7 Q0 a 1 1 mine")
    with pytest.raises(RradError, match="lists candidates already"):
        retrieve.run(RetrieveConfig(run=f"{tmp_path}/mine.run", output=f"{tmp_path}/again", **options))


def test_duplicate_ids_and_empty_texts_are_counted_and_nothing_else_is_lost(beir: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "beir"
    shutil.copytree(beir, folder)
    corpus = (folder / "corpus.jsonl").read_text()
    first = corpus.splitlines()[0]
    (folder / "corpus.jsonl").write_text(corpus + "\n" + first + "\n" + json.dumps({"_id": "blank", "text": " "}))
    out = retrieve.run(RetrieveConfig(data=str(folder), output=f"{tmp_path}/candidates"))
    manifest = tables.read_manifest(out)
    assert manifest.quarantined == {"duplicate id": 1, "empty text": 1}
    assert manifest.facts["documents"] == len(corpus.splitlines())


def test_evaluate_without_judgments_and_select_without_a_student_in_budget_say_what_is_wrong(
    job: tuple[Path, str, str], tmp_path: Path
) -> None:
    out, _, _ = job
    with pytest.raises(RradError, match="no query of split 'unlabelled' has a relevant document"):
        evaluate.run(EvaluateConfig(input=f"{out}/short", output=f"{tmp_path}/none", split="unlabelled"))
    with pytest.raises(RradError, match=r"no student keeps p99 <= 0\.001 ms"):
        select.run(SelectConfig(f"{out}/report", f"{tmp_path}/none", max_p99_ms=0.001, allow_worse=True))
    won = select.run(SelectConfig(f"{out}/report", f"{tmp_path}/winner", max_p99_ms=0.001))
    winner = json.loads(Path(won, "winner.json").read_text())
    assert (winner["student"], winner["finding"].startswith("The first stage wins")) == ("", True)


def test_label_fits_weights_on_dev_and_says_so(job: tuple[Path, str, str], tmp_path: Path) -> None:
    out, _, _ = job
    cfg = LabelConfig(input=f"{out}/judged", output=f"{tmp_path}/labels")
    labels = tables.read_manifest(label.run(cfg)).lineage.labels
    assert labels is not None
    assert labels.weights
    assert labels.dev["queries"] == 16


def test_help_names_every_stage() -> None:
    said = rrad("--help").stdout
    for stage in cli.STAGES:
        assert stage in said


def test_a_mistake_on_the_command_line_is_one_line_and_no_traceback() -> None:
    done = rrad("judge", "configs/judge.yaml", "input=x", "output=y", "wokers=2")
    assert done.returncode == 2
    assert "wokers" in done.stderr
    assert "workers" in done.stderr
    assert "Traceback" not in done.stderr
