"""Fixtures that tests of several folders share: a small real collection, tiny students, and killed commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands import PATIENCE_S, ROOT, RRAD
from tests.heads import Head, started

if TYPE_CHECKING:
    from rrad_ray.evaluation.bench import Evaluation

POISON = "zzxxyy"  # kills the engine as the first word of the first passage, where `poison.py` listens
ENGINE = {
    "resources": {"CPU": 1},
    "engine_kwargs": {
        "dtype": "bfloat16",
        "enforce_eager": True,
        "max_model_len": 512,
        "max_num_batched_tokens": 2048,
    },
    "engine_env": {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    },
}


def kill_before_the_manifest(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> None:
    """Have a stage's run end when all but its manifest is written."""
    from rrad_ray import tables

    with monkeypatch.context() as killed:
        killed.setattr(tables.Output, "commit", lambda self, **facts: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run()


@pytest.fixture(scope="session", autouse=True)
def _quiet_ray() -> Iterator[None]:
    """Whatever a test module started in this process ends with the session; nothing else is touched."""
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """These models are small: more threads only wait for each other, above all on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pretrained encoder with a head whose scores differ, saved."""
    import torch

    from rrad_ray.rankers.ranker import Ranker
    from rrad_ray.tables import checkpoints

    folder = str(tmp_path_factory.mktemp("student"))
    torch.manual_seed(0)
    ranker = Ranker.encoder(checkpoints.resolve(checkpoints.BUNDLED[0]), max_length=128)
    torch.nn.init.normal_(ranker.model.classifier.weight, std=0.4)
    ranker.save(folder)
    return folder


@pytest.fixture(scope="session")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BEIR folder cut from this environment's documentation: 400 documents, 24 queries of each split."""
    from rrad_ray.data.pydoc_collection import read_pydoc

    collection = read_pydoc()
    chosen = []
    for split in ("train", "dev", "test", "unlabelled"):
        chosen += [query for query in collection.queries if query.split == split][:24]
    wanted = {doc_id for query in chosen for doc_id in query.judged}
    ids = (
        sorted(wanted) + [doc_id for doc_id in sorted(collection.corpus) if doc_id not in wanted][: 400 - len(wanted)]
    )
    folder = tmp_path_factory.mktemp("beir")
    corpus = [json.dumps({"_id": doc_id, "title": "", "text": collection.corpus[doc_id]}) for doc_id in ids]
    (folder / "corpus.jsonl").write_text("\n".join(corpus))
    queries = [json.dumps({"_id": query.query_id, "text": query.text}) for query in chosen]
    (folder / "queries.jsonl").write_text("\n".join(queries))
    (folder / "qrels").mkdir()
    for split in ("train", "dev", "test"):
        lines = ["query-id\tcorpus-id\tscore"]
        for query in chosen:
            if query.split == split:
                lines += [f"{query.query_id}\t{doc_id}\t{grade}" for doc_id, grade in query.judged.items()]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def short(beir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Real candidates of that folder, retrieved and pre-ranked; parts of 6 queries."""
    from rrad_ray.config import PrerankConfig, RetrieveConfig
    from rrad_ray.stages import prerank, retrieve

    place = tmp_path_factory.mktemp("short")
    candidates = retrieve.run(
        RetrieveConfig(data=str(beir), output=f"{place}/candidates", bm25_depth=4, dense_depth=4, rows_per_part=6)
    )
    return prerank.run(PrerankConfig(input=candidates, output=f"{place}/short", source="dense", top_k=3, bottom_k=2))


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny decoder that has learnt to write a little."""
    import dataclasses

    from rrad_ray.config import GenerationConfig
    from rrad_ray.training.rank_task import RankTask
    from tests import toys

    rows = [row | {"missing": [False] * 4, "reasons": [f"reason {n}" for n in range(4)]} for row in toys.ROWS]
    cfg = dataclasses.replace(toys.CFG, kind="decoder", max_steps=60, lr=1e-2, freeze_embeddings=False)
    cfg = dataclasses.replace(cfg, generation=GenerationConfig(weight=1.0, max_tokens=12))
    words = ["reason", "relevant", "irrelevant", *(text for row in rows for text in (row["query"], *row["texts"]))]
    source = toys.causal_lm(tmp_path_factory.mktemp("source"), words, tied=True)
    task, folder = RankTask.fresh(source, cfg), tmp_path_factory.mktemp("writer") / "tiny"
    toys.fitted(task, cfg, rows=rows)
    task.ranker.save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A running Ray head with a dashboard, as a user's cluster has one."""
    with started(["--num-cpus=4"], {"RAY_metrics_report_interval_ms": "1000"}) as found:
        yield found


@pytest.fixture
def killed() -> Callable[[list[str], Callable[[], bool]], str]:
    """Runs `rrad ARGS` and kills it with SIGKILL as soon as a condition holds; its output so far. While the condition
    is looked at the command is stopped, so that it still holds when the command dies."""

    def run(arguments: list[str], when: Callable[[], bool]) -> str:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        command = [*RRAD, *arguments]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True, cwd=ROOT
        )
        end = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < end:
            process.send_signal(signal.SIGSTOP)
            if when():
                process.kill()
                return process.communicate()[0]
            process.send_signal(signal.SIGCONT)
            time.sleep(0.05)
        process.kill()
        pytest.fail(f"it ended before it could be killed:\n{process.communicate()[0][-3000:]}")

    return run


def rrad(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `rrad ARGS` to its end."""
    command = [*RRAD, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT)


def curves_of(output: str) -> dict[str, list[float]]:
    """The curves that a training has written so far."""
    try:
        return json.loads(Path(output, "history.json").read_text())
    except (OSError, ValueError):
        return {"dev_steps": []}


def row_of(identity: str, texts: list[str]) -> dict[str, object]:
    """A `Candidates` row of a query with these documents."""
    count = len(texts)
    return {
        "query_id": identity,
        "query": "add two numbers",
        "split": "unlabelled",
        "doc_ids": [f"{identity}-{number}" for number in range(count)],
        "texts": texts,
        "scores": [float(-number) for number in range(count)],
        "sources": ["bm25"],
        "source_scores": [[float(-number) for number in range(count)]],
        "qrel_ids": [],
        "qrel_grades": [],
    }


def table_of(folder: Path, rows: list[dict[str, object]]) -> str:
    """The output of retrieve with these rows; its place."""
    from rrad_ray import tables
    from rrad_ray.config import SelectConfig
    from rrad_ray.rows import Candidates

    out = tables.Output("retrieve", SelectConfig(input="", output=str(folder)), Candidates, {})
    out.write_all(rows, 100)
    return out.commit()


def evaluation_of(cfg: Any, test: list[Any], dev: list[Any]) -> Evaluation:
    """The evaluation of a config as the stage makes it, on these rows."""
    from rrad_ray import tables
    from rrad_ray.evaluation.bench import Evaluation
    from rrad_ray.evaluation.student_scores import StudentScoring
    from rrad_ray.rows import Ranking
    from rrad_ray.runtime import cluster

    out = tables.Output("evaluate", cfg, Ranking, {})
    return Evaluation(cfg, test, dev, StudentScoring(cfg, out, (test, dev), cluster.each_part))
