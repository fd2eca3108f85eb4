"""`task: grade`: what is asked, what the labels' logits say, and rerankers scored as their authors score them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.config import FinetuneConfig, PromptConfig
from rrad_ray.config.template_files import load_template
from rrad_ray.config.templates import GradeTemplate
from rrad_ray.errors import InvalidInput, RradError
from rrad_ray.labelling import planner, teacher
from rrad_ray.labelling.label_tokens import endpoint_logprobs, label_tokens
from rrad_ray.tables import checkpoints
from rrad_ray.training.listwise import ListwiseExamples
from tests import tiny
from tests.rerankers import AUTHORS, QUERY, TEXTS, reranker

MODEL = checkpoints.BUNDLED[1]


def row(texts: list[str], query: str = QUERY) -> dict[str, Any]:
    return {
        "query_id": "q",
        "query": query,
        "split": "train",
        "doc_ids": list(map(str, range(len(texts)))),
        "texts": texts,
    }


def test_each_document_is_asked_about_alone_and_nothing_is_written() -> None:
    cfg = PromptConfig(task="grade", doc_tokens=8, engine_kwargs={"max_model_len": 400})
    plan = planner.Planner(cfg, checkpoints.resolve(MODEL))
    asked = plan(row(["opens a file", "adds " * 40]))
    ids = [plan.tokenizer.convert_tokens_to_ids(digit) for digit in "0123"]
    sampling = {"max_tokens": 1, "temperature": 0.0, "detokenize": False, "logprob_token_ids": ids}
    assert [prompt["sampling_params"] for prompt in asked] == [sampling] * 2
    first, second = (plan.tokenizer.decode(prompt["token_ids"]) for prompt in asked)
    assert f"Search query: {QUERY}\n\nDocument: opens a file\n\nHow relevant" in first
    assert first.endswith("<|im_start|>assistant\n")
    assert 4 < second.count("adds") <= 8
    long = plan(row(["opens a file"], query="sort " * 400))
    assert "about 4" in long[0]["too_long"] or "about 5" in long[0]["too_long"]


def test_a_document_is_cut_until_its_prompt_fits_and_counted_once() -> None:
    cfg = PromptConfig(task="grade", doc_tokens=200, engine_kwargs={"max_model_len": 250})
    asked = planner.Planner(cfg, checkpoints.resolve(MODEL))(row(["adds " * 300, "opens a file"]))
    assert [prompt["truncated"] for prompt in asked] == [1, 0]
    assert len(asked[0]["token_ids"]) == 249


def test_an_endpoint_gets_the_same_messages_and_no_text_as_it_is() -> None:
    [prompt] = planner.Planner(PromptConfig(task="grade", template="yes-no", engine="openai"), "")(row(["one\ntwo"]))
    assert "Document: one two\n\nIs the document" in json.loads(prompt["messages"])[1]["content"]
    for name in ("qwen3-reranker", "bge-reranker-gemma"):
        with pytest.raises(ValueError, match="an endpoint takes `messages`"):
            PromptConfig(task="grade", template=name, engine="openai")


# ---- logits to scores ---------------------------------------------------------------------------------------------


def template(score: str = "expected", **labels: float) -> GradeTemplate:
    return GradeTemplate(task="grade", prompt="{query} {document}", score=score, labels=labels)  # type: ignore[arg-type]


def test_the_expected_grade_is_the_mean_of_the_grades_by_the_labels_own_probabilities() -> None:
    grades = template(a=0, b=1, c=3)
    logits = [math.log(0.1), math.log(0.2), math.log(0.1)]  # the rest of the vocabulary has the other 0.6
    assert grades.value(logits) == pytest.approx((0.2 * 1 + 0.1 * 3) / 0.4)
    assert template(no=0, yes=1).value([1.0, 3.0]) == pytest.approx(1 / (1 + math.exp(-2)))
    assert template("log_odds", yes=1, no=0).value([3.0, 1.0]) == 2.0
    assert template("log_odds", no=0, yes=1).value([1.0, 3.0]) == 2.0
    assert template("logit", Yes=1).value([-4.5]) == -4.5


@given(st.lists(st.floats(-80, 80), min_size=3, max_size=3), st.floats(-50, 50))
def test_a_grade_is_within_the_scale_and_hangs_on_differences_alone(logits: list[float], shift: float) -> None:
    grades = template(a=0, b=1, c=3)
    assert 0 <= grades.value(logits) <= 3
    assert grades.value([logit + shift for logit in logits]) == pytest.approx(grades.value(logits), abs=1e-6)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prompt: '{query}'\nlabels: {yes: 1, no: 0}", "it holds {document} 0 times"),
        ("prompt: '{query} {document}'\nlabels: {yes: 1}", "they tell no grade from another"),
        ("prompt: '{query} {document}'\nlabels: {a: 1, b: 0, c: 2}\nscore: log_odds", "3 labels for score=log_odds"),
        ("prompt: '{query} {document}'\nlabels: {'yes': 1, 'yes ': 0}", "two of them differ in white space alone"),
        ("labels: {yes: 1, no: 0}", "it wants `messages` or `prompt`"),
        ("messages: [{role: user, content: '{query}'}]\nlabels: {yes: 1, no: 0}", "they hold {document} 0 times"),
    ],
)
def test_a_template_that_cannot_grade_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "own.yaml").write_text(f"task: grade\n{text}\n")
    with pytest.raises(RradError, match=rf"own.yaml:\d+: .*{says}"):
        load_template(GradeTemplate, f"{tmp_path}/own.yaml")


def test_a_label_that_is_no_token_of_its_own_is_an_error_before_engines_start() -> None:
    tokenizer = tiny.tokenizer()
    assert label_tokens(tokenizer, ["w1", "w2"]) == [5, 6]
    for labels in (["w1", "w1 w2"], ["w1", "unknown"], ["w1", "w1 "]):
        with pytest.raises(InvalidInput, match="no token of its own"):
            label_tokens(tokenizer, labels)


def test_an_endpoints_labels_are_sums_over_their_spellings_and_a_missing_one_has_at_most_the_least() -> None:
    top = [("Yes", math.log(0.4)), (" yes", math.log(0.2)), ("Sure", math.log(0.1)), ("!", math.log(0.01))]
    yes, no = endpoint_logprobs(top, {"yes": 1.0, "no": 0.0})
    assert (yes, no) == pytest.approx((math.log(0.6), math.log(0.01)))
    with pytest.raises(InvalidInput, match=r"none of the labels 0, 1 is among the 4 likeliest tokens \('Yes'"):
        endpoint_logprobs(top, {"0": 0.0, "1": 1.0})


def test_labels_that_differ_in_case_alone_have_their_own_spellings_at_an_endpoint() -> None:
    top = [("A", math.log(0.6)), (" a", math.log(0.3)), ("a", math.log(0.05))]
    assert endpoint_logprobs(top, {"A": 1.0, "a": 0.0}) == pytest.approx([math.log(0.6), math.log(0.35)])


# ---- rerankers as their authors score them ------------------------------------------------------------------------


@pytest.mark.parametrize("name", AUTHORS)
def test_a_reranker_gets_its_authors_tokens_and_its_logits_make_their_score(tmp_path: Path, name: str) -> None:
    folder = reranker(tmp_path / "model", name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    plan = planner.Planner(PromptConfig(task="grade", template=name, doc_tokens=100), folder)
    scores = []
    for text, prompt in zip(TEXTS, plan(row(TEXTS)), strict=True):
        ids, score = AUTHORS[name](tokenizer, model, QUERY, text)
        assert prompt["token_ids"] == ids
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        assert plan.cfg.prompt.value(logits[plan.label_ids].tolist()) == pytest.approx(score, abs=1e-6)
        scores.append(score)
    assert len({round(score, 4) for score in scores}) == len(TEXTS), "they are all alike"


# ---- FIRST --------------------------------------------------------------------------------------------------------


def test_the_first_identifiers_logits_are_read_where_finetune_has_trained_them_and_make_an_order_and_scores() -> None:
    item = {**row(["adds numbers", "opens files", "sorts"]), "targets": [3.0, 2.0, 1.0], "missing": [False] * 3}
    folder = checkpoints.resolve(MODEL)
    options = {"objective": "order", "rank_weight": 1.0, "docs_per_query": 3, "orders": 2}
    lists = ListwiseExamples(folder, FinetuneConfig(input="", output="", **options))  # type: ignore[arg-type]
    plan = planner.Planner(PromptConfig(task="order", answer="first_token", repeats=2), folder)
    asked = plan(item)
    for example, prompt in zip(lists(item), asked, strict=True):
        assert prompt["token_ids"] == list(example.ids[: example.name_index])
        assert prompt["sampling_params"]["logprob_token_ids"] == list(example.names)
        assert prompt["sampling_params"]["max_tokens"] == 1
    names = asked[0]["sampling_params"]["logprob_token_ids"]
    read = plan.read_logprobs(dict(zip(names, [-2.0, -0.5, -1.0], strict=True)), 3)
    assert read == {"text": "[2] > [3] > [1]", "scores": [-2.0, -0.5, -1.0]}
    judged = {**item, "task": "order", "responses": [read["text"]] * 2, "judge_scores": [-1.5, -1.0, -2.0]}
    verdict = teacher.verdict(judged)
    assert (verdict.targets, verdict.statuses, verdict.rejected) == ([-1.5, -1.0, -2.0], ["ok", "ok"], False)


def test_more_documents_than_a_tokenizer_names_in_one_token_are_the_querys_error() -> None:
    plan = planner.Planner(PromptConfig(task="order", answer="first_token"), checkpoints.resolve(MODEL))
    [prompt] = plan(row(["text"] * 12))
    assert "12 documents: the tokenizer writes [10] and [1]" in prompt["too_long"]
    for options in ({"task": "grade"}, {"engine": "openai"}, {"structured": True}, {"window": 2, "window_step": 1}):
        with pytest.raises(ValueError, match="answer='first_token': needs task=order"):
            PromptConfig(**{"task": "order", "answer": "first_token", **options})  # type: ignore[arg-type]
