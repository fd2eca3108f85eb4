"""Engines of `judge` other than vLLM, and how a prompt that kills its engine is found."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray import tables
from rrad_ray.config import JudgeConfig, LabelConfig, OpenAIConfig, SimulatedConfig
from rrad_ray.errors import RradError
from rrad_ray.rows import Judgment, Labels, Quarantined
from rrad_ray.stages import judge, label
from rrad_ray.stages.engines import AFTER_ONE_DEATH, Ledger, groups


@given(st.lists(st.integers(0, 6), max_size=40), st.integers(1, 5))
def test_every_prompt_of_a_batch_is_tried_once_or_given_up(deaths: list[int], most: int) -> None:
    fresh, suspects, given_up = groups(deaths, most)
    tried = [index for group in suspects for index in group]
    assert sorted([*fresh, *tried, *given_up]) == list(range(len(deaths)))
    assert all(deaths[index] >= most for index in given_up)
    for group in suspects:
        assert len(group) <= (AFTER_ONE_DEATH if deaths[group[0]] == 1 else 1)


def test_a_ledger_counts_a_death_for_what_was_begun_and_comes_again_unended() -> None:
    ledger = Ledger()
    assert ledger.deaths_of(["a", "b"]) == [0, 0]
    ledger.begin(["a", "b"])
    ledger.end(["b"])
    assert ledger.deaths_of(["a", "b"]) == [1, 0]
    assert ledger.deaths_of(["a", "b"]) == [1, 0], "asked twice, it died once"
    ledger.begin(["a"])
    assert ledger.deaths_of(["a"]) == [2]


@given(st.integers(1, 60), st.integers(0, 59), st.integers(3, 5), st.integers(1, 16))
def test_one_poison_prompt_ends_as_the_only_one_given_up(prompts: int, poison: int, most: int, batch: int) -> None:
    """Replays what Ray does: a batch whose engine died comes again, whole."""
    ledger, answered, given_up = Ledger(), set[int](), set[int]()
    for start in range(0, prompts, batch):
        members = range(start, min(start + batch, prompts))
        while not _survives(ledger, members, poison % prompts, most, answered, given_up):
            pass
    assert given_up == {poison % prompts}
    assert answered == set(range(prompts)) - given_up


def _survives(ledger: Ledger, members: range, poison: int, most: int, answered: set[int], given_up: set[int]) -> bool:
    fresh, suspects, hopeless = groups(ledger.deaths_of([str(key) for key in members]), most)
    given_up |= {members[index] for index in hopeless}
    for group in (fresh, *suspects):
        keys = [members[index] for index in group]
        ledger.begin([str(key) for key in keys])
        if poison in keys:
            return False
        ledger.end([str(key) for key in keys])
        answered |= set(keys)
    return True


# ---- an OpenAI-compatible endpoint --------------------------------------------------------------------------


class Endpoint:
    """A chat-completions server on 127.0.0.1 that can refuse for a while."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.refuse: dict[str, list[int]] = {}  # part of a prompt -> statuses to answer first
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, content = endpoint.answer(body["messages"][-1]["content"])
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, content: str) -> tuple[int, dict[str, Any]]:
        self.calls[content] += 1
        for part, statuses in self.refuse.items():
            if part in content and statuses:
                return statuses.pop(0), {"error": {"message": "not now"}}
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "[2] > [1]"}}
        usage = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
        head = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
        return 200, {**head, "choices": [choice], "usage": usage}

    def calls_of(self, part: str) -> int:
        return sum(count for text, count in self.calls.items() if part in text)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    found = Endpoint()
    yield found
    found.server.shutdown()


def row(number: int, **changes: Any) -> dict[str, Any]:
    ids = [f"d{number}-0", f"d{number}-1"]
    found: dict[str, Any] = {
        "query_id": f"q{number}",
        "query": f"query number {number}.",
        "doc_ids": ids,
        "texts": ["one text", "another"],
        "judged_ids": ids[1:],
        "judged_grades": [1],
    }
    return found | changes


def folder(place: Path, rows: list[dict[str, Any]]) -> str:
    (place / "input").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), place / "input" / "rows.parquet")
    return f"{place}/input"


def config(place: Path, **options: Any) -> JudgeConfig:
    return JudgeConfig(input=f"{place}/input", output=f"{place}/judgments", **{"task": "order", **options})


def test_an_endpoint_is_asked_again_after_429_and_500_and_what_still_fails_is_set_aside(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    endpoint.refuse = {"number 3.": [429, 500, 503], "number 5.": [400], "number 7.": [500] * 50}
    folder(tmp_path, [row(number) for number in range(10)])
    options = OpenAIConfig(url=endpoint.url, retries=3, concurrency=4)
    judge.run(config(tmp_path, engine="openai", model="some-model", openai=options, max_quarantined=0.5))
    judged = list(tables.read(f"{tmp_path}/judgments", Judgment))
    assert [item["query_id"] for item in judged] == [f"q{number}" for number in range(10) if number not in (5, 7)]
    assert all((item["responses"], item["prompt_tokens"]) == (["[2] > [1]"], 50) for item in judged)
    bad = tables.read_part(f"{tmp_path}/judgments/quarantine", "part-00000.parquet", Quarantined)
    reasons = {item["id"]: item["reason"] for item in bad}
    assert set(reasons) == {"q5", "q7"}
    assert "BadRequest" in reasons["q5"]
    assert "InternalServerError" in reasons["q7"]
    calls = {number: endpoint.calls_of(f"number {number}.") for number in (0, 3, 5, 7)}
    assert calls == {0: 1, 3: 4, 5: 1, 7: 4}, "tries are bounded"


def test_a_token_budget_stops_the_run_and_a_larger_one_goes_on_without_asking_again(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    folder(tmp_path, [row(number) for number in range(40)])
    small = OpenAIConfig(url=endpoint.url, concurrency=1, token_budget=600)
    with pytest.raises(RradError, match=r"openai.token_budget: the budget of 600 tokens is spent"):
        judge.run(config(tmp_path, engine="openai", openai=small, batch_size=2))
    output = judge.run(config(tmp_path, engine="openai", openai=OpenAIConfig(url=endpoint.url), batch_size=2))
    assert len(list(tables.read(output, Judgment))) == 40
    paid_twice = sum(endpoint.calls.values()) - 40
    assert paid_twice <= 30, "at most what was under way when the budget ended is paid for again"


# ---- no model at all ----------------------------------------------------------------------------------------


def test_a_simulated_teacher_is_marked_as_such_in_every_manifest_and_its_noise_costs_quality(tmp_path: Path) -> None:
    ids, texts = [f"d{number}" for number in range(8)], [f"text {number}" for number in range(8)]
    judged = {"doc_ids": ids, "texts": texts, "judged_ids": ids[2:4], "judged_grades": [2, 1]}
    ndcg = {}
    for noise in (0.0, 3.0):
        place = tmp_path / str(noise)
        folder(place, [row(number, **judged) for number in range(60)])
        teacher = SimulatedConfig(noise=noise, missing=0.1, malformed=0.1)
        judge.run(config(place, engine="simulated", simulated=teacher, repeats=2, max_quarantined=0.2))
        label.run(LabelConfig(input=f"{place}/judgments", output=f"{place}/labels", max_quarantined=0.2))
        for name in ("judgments", "labels"):
            assert "simulated" in tables.read_manifest(f"{place}/{name}")["simulated"]
        found = tables.read_manifest(f"{place}/labels")["label_quality"]
        ndcg[noise] = found["ndcg_10"]
        assert 0.03 < found["rejected_share"] < 0.2
        assert len(list(tables.read(f"{place}/labels", Labels))) >= 50
    assert ndcg[0.0] == pytest.approx(1.0)
    assert ndcg[3.0] < 0.8


def test_a_killed_run_may_go_on_with_more_workers_but_not_with_another_model(tmp_path: Path) -> None:
    folder(tmp_path, [row(number) for number in range(4)])
    judge.run(config(tmp_path, engine="echo"))
    assert judge.run(config(tmp_path, engine="echo", workers=5, stall_s=9.0)) == f"{tmp_path}/judgments"
    with pytest.raises(RradError, match="model='bundled:smollm2-135m-instruct' -> 'other'"):
        judge.run(config(tmp_path, engine="echo", model="other"))
