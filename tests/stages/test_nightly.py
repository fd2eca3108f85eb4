"""Three nights of the loop with real parts: one is published, one refused, and the store, its history and an endpoint
that runs all the time say so."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from rrad_ray import cli, tables
from rrad_ray.evaluation.night_history import read_nights
from rrad_ray.evaluation.winner import read_winner
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.rows import Candidates, Labels
from rrad_ray.serving import winners as served
from rrad_ray.serving.pages import sigmoid
from tests import endpoints, winners
from tests.commands import PATIENCE_S, ROOT
from tests.heads import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]

QUERIES = 80  # of a night
SMALL = [
    *("min_queries=20", "depth=4", "trainers=1", "num_workers=1", "max_p99_ms=60000"),
    *("steps.collect.judged_share=0.4", "steps.label.weights={judge: 1.0, dense: 1.0}"),
    *("steps.judge.gate.enabled=false", "steps.frozen.latency_repeats=5", "steps.fresh.latency_repeats=5"),
    *("steps.student.max_steps=40", "steps.student.eval_steps=1000", "steps.student.lr=1e-4"),
    "steps.publish.allow_worse=true",
]


class Annotator:
    """An endpoint that grades as an annotator would who knows which document each query was made of."""

    def __init__(self, documents: dict[str, str]) -> None:
        annotator = self
        self.documents, self.asked = documents, 0

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                content = json.dumps(annotator.answer(body["messages"][-1]["content"])).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, prompt: str) -> dict[str, Any]:
        self.asked += 1
        words = " ".join(prompt.split())
        relevant = any(query in words and document in words for query, document in self.documents.items())
        digits = "3012" if relevant else "0123"  # the likeliest first; one that is not named counts as the least
        likely = [{"token": digit, "logprob": -9.0 * rank, "bytes": None} for rank, digit in enumerate(digits)]
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "0"}}
        choice["logprobs"] = {"content": [{**likely[0], "top_logprobs": likely}]}
        usage = {"prompt_tokens": 50, "completion_tokens": 1, "total_tokens": 51}
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }


DOCUMENTS = ["open(path) opens a file", "len(x) counts", "close it"]


class Watching:
    """A `rrad serve` of the store, which looks for another winner every second while the nights pass."""

    def __init__(self, store: Path, log: Path) -> None:
        port, self.log = free_port(), log
        self.process = endpoints.served(store, port, log, "watch_s=1")
        self.client = endpoints.client(f"http://127.0.0.1:{port}")

    def answer(self) -> dict[str, Any]:
        """Return its answer of now, or nothing before it has started."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            answer = self.client.post("/v2/rerank", json={"query": "open a file", "documents": DOCUMENTS})
        except httpx.TransportError:
            return {}
        return answer.json() if answer.status_code == 200 else {}

    def answers_as(self, store: Path) -> None:
        """Wait until it answers by the store's winner, with the scores of its checkpoint. Of a fusion, whose other
        scores these requests lack, it serves the student alone, and says so."""
        model, end = served.find_winner(str(store)), time.monotonic() + PATIENCE_S
        scores = Ranker.load(served.local_folder(model), dtype="float32").score("open a file", DOCUMENTS)
        wanted = pytest.approx([sigmoid(score) for score in scores], abs=0.02)
        while (answer := self.answer()).get("model") != model.student:
            assert time.monotonic() < end, f"{answer} and not {model.student}: {self.log.read_text()[-2000:]}"
            time.sleep(1)
        results = sorted(answer["results"], key=lambda result: result["index"])
        assert [result["relevance_score"] for result in results] == wanted

    def end(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(PATIENCE_S)


@pytest.fixture
def watching(student: str, tmp_path: Path) -> Iterator[Watching]:
    """An endpoint of a store with a first winner."""
    winners.write(tmp_path / "store", "encoder", student, {})
    found = Watching(tmp_path / "store", tmp_path / "serve.log")
    yield found
    found.end()


@pytest.fixture(scope="module")
def asked(beir: Path) -> dict[str, str]:
    """Queries made of words of documents, with the beginning of the one that each is made of."""
    made_of: dict[str, str] = {}
    for line in (beir / "corpus.jsonl").read_text().splitlines():
        words = json.loads(line)["text"].split()
        if len(words) >= 16:
            made_of["Where is " + " ".join(words[6:11])] = " ".join(words[:16])
    return made_of


@pytest.fixture(scope="module")
def annotator(asked: dict[str, str]) -> Iterator[Annotator]:
    found = Annotator(asked)
    yield found
    found.server.shutdown()


def test_three_nights_one_of_which_is_refused(
    beir: Path, short: str, watching: Watching, asked: dict[str, str], annotator: Annotator, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    watching.answers_as(store)
    source = tmp_path / "queries"
    source.mkdir(exist_ok=True)

    def night(name: str, *options: str) -> dict[str, str]:
        given = [f"night={name}", f"data={beir}", f"queries={source}", f"store={store}", f"frozen={short}"]
        given += [f"nights={tmp_path}/nights", f"grader_url=http://127.0.0.1:{annotator.server.server_port}/v1"]
        pipeline = str(ROOT / "configs" / "nightly" / "laptop.yaml")
        return cli.run_pipeline(pipeline, [*given, "grader=annotator", *SMALL, *options])

    def ask(count: int) -> None:
        rows = [{"_id": f"q{number}", "text": text} for number, text in enumerate(list(asked)[:count])]
        (source / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def decisions() -> list[tuple[str, str]]:
        return [(entry["night"], entry["decision"]) for entry in read_nights(str(store))]

    ask(QUERIES)
    outputs = night("2026-11-27")
    assert decisions() == [("2026-11-27", "published")], read_nights(str(store))
    first = read_winner(str(store))
    assert first.checkpoint == outputs["student"]
    model = served.find_winner(str(store))
    served.check_scores(model, Ranker.load(served.local_folder(model), dtype="auto").score)
    watching.answers_as(store)
    judged = [row for row in tables.read(outputs["qrels"], Candidates) if row["split"] in ("dev", "test")]
    assert judged
    assert all(set(row["qrel_grades"]) <= {0, 3} for row in judged)
    held = {row["query"] for row in judged}
    learnt = {row["query"] for row in tables.read(outputs["label"], Labels) if row["split"] == "unlabelled"}
    assert len(learnt) > 20
    assert not held & learnt

    before, calls = (store / "history.jsonl").read_bytes(), annotator.asked
    night("2026-11-27")
    assert ((store / "history.jsonl").read_bytes(), annotator.asked) == (before, calls), "it was done already"
    assert night("2026-11-28") == {}, "nobody has asked anything new: the night ends well"
    assert decisions()[-1] == ("2026-11-28", "waits")

    ask(2 * QUERIES)
    nothing_learnt = ["steps.student.lr=1e-12", "steps.student.head_lr=1e-12", "steps.student.max_steps=1"]
    night("2026-11-28", *nothing_learnt)
    assert decisions()[1:] == [("2026-11-28", "refused")]
    assert read_winner(str(store)) == first
    watching.answers_as(store)

    ask(3 * QUERIES)
    outputs = night("2026-11-29")
    [*_, last] = read_nights(str(store))
    assert last["last"] == first.system
    winner = read_winner(str(store))
    assert (winner.checkpoint == outputs["student"]) == (last["decision"] == "published")
    assert (winner == first) == (last["decision"] == "refused")
    watching.answers_as(store)
    page = (store / "history.html").read_text()
    assert all(f">{each}<" in page for each in ("2026-11-27", "2026-11-28", "2026-11-29"))
    assert set(last["drift"]) >= {"words of a query", "overlap of the sources' first 5", "labels: confidence"}
