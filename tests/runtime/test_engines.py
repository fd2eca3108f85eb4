"""Engines of `judge` other than vLLM, and how a prompt that kills its engine is found."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import threading
import time
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

from rrad_ray import prompts, tables
from rrad_ray.config import GateConfig, JudgeConfig, LabelConfig, OpenAIConfig, PromptConfig, SimulatedConfig
from rrad_ray.data import exports
from rrad_ray.errors import RradError
from rrad_ray.labelling.answers import parse_answer
from rrad_ray.labelling.crash_ledger import AFTER_ONE_DEATH, Ledger, groups
from rrad_ray.patches.ray_actor_arguments import ByName
from rrad_ray.rows import JudgeOutput, Labels, Quarantined
from rrad_ray.runtime import engines
from rrad_ray.runtime.engines import Requests, request_fields, slide
from rrad_ray.runtime.first_errors import ALIKE, FirstErrors
from rrad_ray.stages import judge, label
from tests import tiny

pytestmark = pytest.mark.ray

LEDGER = ByName(None, "not started")


@given(st.lists(st.integers(0, 6), max_size=40), st.integers(1, 5))
def test_every_prompt_of_a_batch_is_tried_once_or_given_up(deaths: list[int], most: int) -> None:
    fresh, suspects, given_up = groups(deaths, most)
    tried = [index for group in suspects for index in group]
    assert sorted([*fresh, *tried, *given_up]) == list(range(len(deaths)))
    assert all(deaths[index] >= most for index in given_up)
    for group in suspects:
        assert len(group) <= (AFTER_ONE_DEATH if deaths[group[0]] == 1 and most > 2 else 1)


def test_a_ledger_counts_a_death_for_what_was_begun_and_comes_again_unended() -> None:
    ledger = Ledger()
    assert ledger.deaths_of(["a", "b"]) == [0, 0]
    ledger.begin(["a", "b"])
    ledger.end(["b"])
    assert ledger.deaths_of(["a", "b"]) == [1, 0]
    assert ledger.deaths_of(["a", "b"]) == [1, 0], "asked twice, it died once"
    ledger.begin(["a"])
    assert ledger.deaths_of(["a"]) == [2]


@given(st.integers(1, 60), st.integers(0, 59), st.integers(2, 5), st.integers(1, 16))
def test_one_poison_prompt_ends_as_the_only_one_given_up(prompts: int, poison: int, most: int, batch: int) -> None:
    """Replays what Ray does: a batch whose engine died comes again, whole."""
    ledger, answered, given_up = Ledger(), set[int](), set[int]()
    for start in range(0, prompts, batch):
        members = range(start, min(start + batch, prompts))
        while not _survives(ledger, members, poison % prompts, most, answered, given_up):
            pass
    assert given_up == {poison % prompts}
    assert answered == set(range(prompts)) - given_up


def test_a_model_without_its_tokenizer_is_refused_before_an_engine_starts(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "model", "Llama", head="ForCausalLM")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).unlink()
    cfg = JudgeConfig(input="in", output="out", model=folder, resources={"CPU": 1})
    with pytest.raises(RradError, match="tokenizer") as caught:
        engines.vllm(cfg, folder, 1, LEDGER)
    assert caught.value.place == folder
    assert "copy all tokenizer files of the model" in caught.value.remedy


def test_a_model_without_a_chat_template_is_refused_before_an_engine_starts_and_scores_by_likelihood(
    tmp_path: Path,
) -> None:
    """Fault 12."""
    folder = tiny.save(tmp_path / "model", "Llama", head="ForCausalLM")
    with pytest.raises(RradError, match="the model has no chat template") as caught:
        engines.vllm(JudgeConfig(input="in", output="out", task="order", model=folder), folder, 1, LEDGER)
    assert caught.value.place == folder
    engines.vllm(JudgeConfig(input="in", output="out", model=folder), folder, 1, LEDGER)


def test_a_teacher_of_scores_without_a_head_is_refused_before_an_engine_would_draw_one_at_random(
    tmp_path: Path,
) -> None:
    folder = tiny.save(tmp_path / "model", "Llama", head="ForCausalLM")
    with pytest.raises(RradError, match="is no ranker with one score: LlamaForCausalLM"):
        engines.vllm(JudgeConfig(input="in", output="out", task="score", model=folder), folder, 1, LEDGER)


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
        self.bodies: list[dict[str, Any]] = []
        self.traceparents: list[str] = []
        self.paths: list[str] = []
        self.logprobs: dict[str, list[tuple[str, float]]] = {}  # part of a prompt -> its first token's likeliest
        self.refuse: dict[str, list[int]] = {}  # part of a prompt -> statuses to answer first
        self.text, self.finish, self.takes_s = "[2] > [1]", "stop", 0.0
        self.usage: dict[str, int] | None = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.bodies.append(body)
                endpoint.paths.append(self.path)
                endpoint.traceparents.append(self.headers.get("traceparent", ""))
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
        time.sleep(self.takes_s)
        for part, statuses in self.refuse.items():
            if part in content and statuses:
                return statuses.pop(0), {"error": {"message": "not now"}}
        choice: dict[str, Any] = {"index": 0, "finish_reason": self.finish}
        choice["message"] = {"role": "assistant", "content": self.text}
        for part, top in self.logprobs.items():
            if part in content:
                each = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in top]
                choice["logprobs"] = {"content": [{**each[0], "top_logprobs": each}]}
        head = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
        return 200, {**head, "choices": [choice], "usage": self.usage}

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
        "qrel_ids": ids[1:],
        "qrel_grades": [1],
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
    judged = list(tables.read(f"{tmp_path}/judgments", JudgeOutput))
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
    budget = OpenAIConfig(url=endpoint.url, concurrency=3, token_budget=600)
    with pytest.raises(RradError, match=r"openai.token_budget: the budget of 600 tokens is spent \(\d{3} used\)"):
        judge.run(config(tmp_path, engine="openai", openai=budget))
    asked = sum(endpoint.calls.values())
    assert 10 <= asked <= 12, "requests that are under way when the budget ends are answered, and no other goes out"
    with pytest.raises(RradError, match=rf"token_budget: the budget of 600 tokens is spent \({60 * asked} used\)"):
        judge.run(config(tmp_path, engine="openai", openai=budget))
    assert sum(endpoint.calls.values()) == asked
    output = judge.run(config(tmp_path, engine="openai", openai=OpenAIConfig(url=endpoint.url)))
    assert len(list(tables.read(output, JudgeOutput))) == 40
    assert set(endpoint.calls.values()) == {1}, "nothing is paid for twice"


def test_an_endpoint_is_asked_about_scattered_dev_queries_before_others_and_about_few_others_where_it_fails(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    splits = ["train", "train", "dev", "train"]
    folder(tmp_path, [row(number, split=splits[number % 4]) for number in range(160)])
    endpoint.text, endpoint.takes_s = "[1] > [2]", 0.1  # the second one is relevant
    options: dict[str, Any] = {"openai": OpenAIConfig(url=endpoint.url, concurrency=1), "shard_queries": 20}
    with pytest.raises(RradError, match=r"on 40 judged dev queries .* NOT worth its labels"):
        judge.run(config(tmp_path, engine="openai", gate=GateConfig(against="given"), **options))
    asked = [body["messages"][-1]["content"] for body in endpoint.bodies]
    dev = [any(f"query number {number}." in text for number in range(2, 160, 4)) for text in asked]
    assert all(dev[:40])
    assert len(asked) < 160, "all was paid for"


def test_a_token_budget_that_nobody_can_keep_ends_the_run(tmp_path: Path, endpoint: Endpoint) -> None:
    """Without `usage` in its replies all was asked, whatever the budget."""
    endpoint.usage = None
    folder(tmp_path, [row(number) for number in range(40)])
    budget = OpenAIConfig(url=endpoint.url, concurrency=1, token_budget=600)
    with pytest.raises(RradError, match=r"does not say how many tokens it takes, so that 600 cannot be kept; set it"):
        judge.run(config(tmp_path, engine="openai", openai=budget))
    assert sum(endpoint.calls.values()) == 1
    output = judge.run(config(tmp_path, engine="openai", openai=OpenAIConfig(url=endpoint.url)))
    assert len(list(tables.read(output, JudgeOutput))) == 40
    assert set(endpoint.calls.values()) == {1}


def test_an_endpoint_gets_the_fields_that_the_config_names_and_none_that_it_drops(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    folder(tmp_path, [row(0)])
    request = {"max_tokens": None, "temperature": None, "max_completion_tokens": 2000, "reasoning_effort": "low"}
    request |= {"extra_body": {"top_k": 1}}
    options = OpenAIConfig(url=endpoint.url, request=request, system_role="user")
    judge.run(config(tmp_path, engine="openai", model="m", openai=options, chat_template_kwargs={"thinks": False}))
    [body] = endpoint.bodies
    [message] = body.pop("messages")
    assert message["role"] == "user"
    assert message["content"].startswith("You rank passages by their relevance to a search query.\n\nSearch query:")
    more = {"max_completion_tokens": 2000, "reasoning_effort": "low", "top_k": 1}
    assert body == {"model": "m", **more, "chat_template_kwargs": {"thinks": False}}
    fields = request_fields(config(tmp_path, engine="openai", max_tokens=9))
    assert fields == {"max_tokens": 9, "temperature": 0.0}


def test_a_query_in_an_endpoints_url_goes_with_each_request(tmp_path: Path, endpoint: Endpoint) -> None:
    """Azure's URLs name a version so; the path was put behind it."""
    options = OpenAIConfig(url=f"{endpoint.url}/?api-version=2024-06-01", retries=0)
    asked = Requests(config(tmp_path, engine="openai", openai=options), {})
    assert asyncio.run(asked._answer([{"role": "user", "content": "rank"}], 2))["text"] == "[2] > [1]"
    assert endpoint.paths == ["/v1/chat/completions?api-version=2024-06-01"]


def test_a_line_end_behind_an_endpoints_key_is_no_part_of_it(
    tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As secrets of Kubernetes have one: no header takes it, and the client would tell of a broken connection."""
    monkeypatch.setenv("A_KEY", " sk-1\n")
    options = OpenAIConfig(url=endpoint.url, key_env="A_KEY", retries=0)
    asked = Requests(config(tmp_path, engine="openai", openai=options), {})
    assert asked.client.api_key == "sk-1"
    reply = asyncio.run(asked._answer([{"role": "user", "content": "rank"}], 2))
    assert reply["text"] == "[2] > [1]"


def test_a_run_of_which_all_requests_fail_alike_says_why_stops_early_and_can_be_mended(
    tmp_path: Path, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fault 13: 48 of 48 requests of a model that refuses `max_tokens`."""
    endpoint.refuse = {"query number": [400] * 10_000}
    folder(tmp_path, [row(number) for number in range(120)])
    options = {"engine": "openai", "batch_size": 2, "concurrent_batches": 1}
    with pytest.raises(RradError, match=r"no answer, and 16 times the same error.*BadRequest.*not now"):
        judge.run(config(tmp_path, openai=OpenAIConfig(url=endpoint.url, concurrency=1), **options))
    assert capsys.readouterr().out.count("the first error: engine error: BadRequestError") == 1
    endpoint.refuse = {}
    output = judge.run(config(tmp_path, openai=OpenAIConfig(url=endpoint.url), **options))
    assert len(list(tables.read(output, JudgeOutput))) == 120, "what has failed is asked again"


@pytest.mark.parametrize(
    ("text", "error"),
    [pytest.param("", "the answer has no text", marks=pytest.mark.slow), ("[2] >", "the order is cut off")],
)
def test_answers_that_their_tokens_end_stop_a_run_and_whole_orders_among_them_are_taken(
    tmp_path: Path, endpoint: Endpoint, text: str, error: str
) -> None:
    """As those of a model that has spent its tokens on thinking."""
    endpoint.text, endpoint.finish = text, "length"
    folder(tmp_path, [row(number) for number in range(60)])
    options: dict[str, Any] = {"engine": "openai", "batch_size": 2, "concurrent_batches": 1}
    options["openai"] = OpenAIConfig(url=endpoint.url, concurrency=1)
    with pytest.raises(RradError, match=rf"16 times .* engine error: {error} .*length.*raise max_tokens"):
        judge.run(config(tmp_path, **options))
    assert len(endpoint.bodies) < 60
    endpoint.text = "[2] > [1] and more"
    output = judge.run(config(tmp_path, **options))
    assert len(list(tables.read(output, JudgeOutput))) == 60


def test_queries_that_an_endpoint_did_not_answer_are_asked_again_by_a_run_that_goes_on(
    tmp_path: Path, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key that expires, or has no credit left, in the middle of a run."""
    folder(tmp_path, [row(number) for number in range(40)])
    endpoint.refuse = {f"query number {number}": [401] * 100 for number in range(5, 9)}
    options: dict[str, Any] = {"engine": "openai", "openai": OpenAIConfig(url=endpoint.url), "shard_queries": 8}
    with pytest.raises(RradError, match="4 of 40 rows are bad"):
        judge.run(config(tmp_path, **options))
    asked, endpoint.refuse = len(endpoint.bodies), {}
    output = judge.run(config(tmp_path, **options))
    assert "asks again: 4 queries without an answer, of 2 parts" in capsys.readouterr().out
    assert len(list(tables.read(output, JudgeOutput))) == 40
    assert tables.read_manifest(output).quarantined == {}
    assert len(endpoint.bodies) - asked == 4, "the other answers of their parts were paid for again"


def test_tokens_of_answers_that_were_set_aside_count_in_the_budget_of_all_runs(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    """Three runs whose answers had no text took 17,280 tokens of a budget for 7,000."""
    folder(tmp_path, [row(number) for number in range(60)])
    endpoint.text = ""
    openai = OpenAIConfig(url=endpoint.url, concurrency=2, token_budget=1500)
    options: dict[str, Any] = {"engine": "openai", "openai": openai, "shard_queries": 10}
    for error in (f"{ALIKE} times the same error", "the budget of 1,500 tokens is spent", "is spent"):
        with pytest.raises(RradError, match=error):
            judge.run(config(tmp_path, **options))
    assert 25 <= len(endpoint.bodies) <= 26


def test_only_errors_that_are_alike_and_come_before_any_answer_end_a_run() -> None:
    def outcome(errors: list[str]) -> bool:
        first = FirstErrors()
        try:
            for error in errors:
                first.add(error)
        except RradError:
            return False
        return True

    alike = [f"engine error: 400, request 0x{number:x} of {number}" for number in range(ALIKE)]
    assert not outcome(alike)
    assert outcome(alike[1:])
    assert outcome(["", *alike]), "it has answered"
    assert not outcome(["engine error: another", *alike])
    assert outcome([f"{prompts.TOO_LONG}: {number} tokens" for number in range(99)]), "each query's own"


def test_an_endpoints_grade_is_the_expected_one_and_a_reply_without_labels_is_the_querys_error(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    folder(tmp_path, [row(0), row(1, texts=["no logprobs", "another"]), row(2, texts=["one text", "other words"])])
    endpoint.logprobs = {
        "one text": [("2", math.log(0.5)), (" 3", math.log(0.25)), ("The", math.log(0.2)), ("0", math.log(0.05))],
        "another": [("0", -0.1), ("1", -3.0), ("2", -4.0), ("3", -5.0)],
        "other words": [("The", -0.1), ("A", -3.0)],
    }
    options = OpenAIConfig(url=endpoint.url)
    cfg = config(tmp_path, engine="openai", model="m", openai=options, task="grade", max_quarantined=0.9)
    [judged] = tables.read(judge.run(cfg), JudgeOutput)
    assert endpoint.bodies[0]["top_logprobs"] == 20
    assert (endpoint.bodies[0]["logprobs"], endpoint.bodies[0]["max_tokens"]) == (True, 1)
    weights = [math.exp(-0.1 - 3 * (digit > 0) - max(digit - 1, 0) + 0.1 * (digit > 0)) for digit in range(4)]
    second = sum(digit * weight for digit, weight in enumerate(weights)) / sum(weights)
    first = (2 * 0.5 + 3 * 0.25 + 0.05) / (0.5 + 0.25 + 0.05 + 0.05)  # 1 has at most what the least of them has
    assert judged["judge_scores"] == pytest.approx([first, second])
    bad = tables.read_part(f"{tmp_path}/judgments/quarantine", "part-00000.parquet", Quarantined)
    assert {item["id"]: item["reason"].partition(";")[0] for item in bad} == {
        "q1": "engine error: the endpoint gives no logprobs",
        "q2": "engine error: none of the labels 0, 1, 2, 3 is among the 2 likeliest tokens ('The', 'A')",
    }


# ---- RankGPT's sliding window -------------------------------------------------------------------------------


@given(st.integers(1, 120), st.integers(2, 25), st.integers(1, 25))
def test_windows_go_from_the_bottom_to_the_top_and_leave_no_document_out(n: int, window: int, step: int) -> None:
    spans = prompts.windows(n, window, min(step, window))
    assert (spans[0][1], spans[-1][0]) == (n, 0)
    for (start, stop), (above, next_stop) in itertools.pairwise(spans):
        assert above < start <= next_stop < stop, "each shares documents with the one below it, or touches it"
    assert all(0 < stop - start <= window for start, stop in spans)


def test_100_documents_in_windows_of_20_by_10_are_nine_calls_as_in_the_paper() -> None:
    assert len(prompts.windows(100, 20, 10)) == 9
    assert prompts.windows(8, 20, 10) == [(0, 8)]


class Sorter:
    """Answers a window with its texts, which are numbers, in order; says nothing of use when `fails` has its turn."""

    def __init__(self, fails: tuple[int, ...] = ()) -> None:
        self.calls, self.fails = 0, fails

    async def __call__(self, query: str, texts: list[str]) -> dict[str, Any]:
        self.calls += 1
        order = sorted(range(len(texts)), key=lambda index: int(texts[index]))
        text = "I cannot" if self.calls in self.fails else prompts.written(order)
        return {"text": text, "prompt_tokens": 10, "generated_tokens": 2, "error": ""}


def slid(texts: list[str], ask: Any, window: int = 4, step: int = 2) -> dict[str, Any]:
    cfg = PromptConfig(task="order", window=window, window_step=step)
    return asyncio.run(slide(json.dumps({"query": "x", "texts": texts}), cfg, ask))


@given(st.permutations(range(12)))
def test_a_sliding_window_brings_the_best_up_to_the_top_as_many_as_it_carries(texts: list[int]) -> None:
    ask = Sorter()
    found = slid([str(text) for text in texts], ask)
    order = parse_answer(found["text"], 12)
    assert (len(order.ranked), order.missing) == (12, ())
    assert [texts[index] for index in order.ranked[:2]] == [0, 1], "a step's worth is carried all the way"
    assert (ask.calls, found["prompt_tokens"], found["generated_tokens"]) == (5, 50, 10)


def test_a_window_whose_answer_says_nothing_stays_in_its_order_and_an_error_ends_the_query() -> None:
    untouched = slid(["3", "1", "2"], Sorter(fails=(1,)))
    assert untouched["text"] == "[1] > [2] > [3]"

    async def broken(query: str, texts: list[str]) -> dict[str, Any]:
        return {"text": "", "prompt_tokens": 7, "generated_tokens": 0, "error": "BadRequest: no"}

    assert slid(["3", "1", "2"], broken) == {"error": "BadRequest: no", "prompt_tokens": 7, "generated_tokens": 0}


def test_an_endpoint_is_asked_for_one_window_after_another_and_label_reads_one_order(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    ids = [f"d{number}" for number in range(6)]
    documents = {"doc_ids": ids, "texts": [f"text {number}" for number in range(6)]}
    folder(tmp_path, [row(number, **documents) for number in range(3)])
    options = OpenAIConfig(url=endpoint.url)
    judge.run(config(tmp_path, engine="openai", openai=options, window=2, window_step=1))
    assert sum(endpoint.calls.values()) == 3 * 5
    label.run(LabelConfig(input=f"{tmp_path}/judgments", output=f"{tmp_path}/labels"))
    for item in tables.read(f"{tmp_path}/labels", Labels):
        assert item["parse_status"] == ["ok"]
        # The endpoint always says [2] > [1]: the last document rises to the top, one window at a time.
        assert [ids[index] for index in exports.order_of(item)] == ["d5", "d0", "d1", "d2", "d3", "d4"]
    first = next(iter(tables.read(f"{tmp_path}/judgments", JudgeOutput)))
    assert (first["prompt_tokens"], first["generated_tokens"]) == (250, 50)


# ---- no model at all ----------------------------------------------------------------------------------------


def test_a_simulated_teacher_is_marked_as_such_in_every_manifest_and_its_noise_costs_quality(tmp_path: Path) -> None:
    ids, texts = [f"d{number}" for number in range(8)], [f"text {number}" for number in range(8)]
    judged = {"doc_ids": ids, "texts": texts, "qrel_ids": ids[2:4], "qrel_grades": [2, 1], "split": "dev"}
    ndcg = {}
    for noise in (0.0, 3.0):
        place = tmp_path / str(noise)
        folder(place, [row(number, **judged) for number in range(60)])
        teacher = SimulatedConfig(noise=noise, missing=0.1, malformed=0.1)
        unchecked = GateConfig(enabled=False)
        options = {"engine": "simulated", "simulated": teacher, "repeats": 2, "max_quarantined": 0.2}
        judge.run(config(place, gate=unchecked, **options))
        label.run(LabelConfig(input=f"{place}/judgments", output=f"{place}/labels", max_quarantined=0.2))
        for name in ("judgments", "labels"):
            assert "simulated" in tables.read_manifest(f"{place}/{name}").lineage.simulated
        labelled = tables.read_manifest(f"{place}/labels").lineage.labels
        assert labelled is not None
        found = labelled.label_quality
        ndcg[noise] = found["ndcg_10"]
        assert 0.03 < found["rejected_share"] < 0.2
        assert len(list(tables.read(f"{place}/labels", Labels))) >= 50
    assert ndcg[0.0] == pytest.approx(1.0)
    assert ndcg[3.0] < 0.8


def test_a_killed_run_may_go_on_with_more_workers_but_not_with_another_model(tmp_path: Path) -> None:
    folder(tmp_path, [row(number) for number in range(4)])
    judge.run(config(tmp_path, engine="echo"))
    assert judge.run(config(tmp_path, engine="echo", num_workers=5, stall_s=9.0)) == f"{tmp_path}/judgments"
    with pytest.raises(RradError, match="model='bundled:smollm2-135m-instruct' -> 'other'"):
        judge.run(config(tmp_path, engine="echo", model="other"))
