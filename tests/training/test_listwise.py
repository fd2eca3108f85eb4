"""Training examples from lists: judge's own prompt, the teacher's order as the answer, and FIRST's rank loss."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rrad_ray.config import FinetuneConfig, PromptConfig
from rrad_ray.labelling import aggregation, answers, planner
from rrad_ray.labelling.label_tokens import identifiers
from rrad_ray.rankers import checkpoint
from rrad_ray.tables import checkpoints
from rrad_ray.training import listwise
from rrad_ray.training.packing import Example, ExampleSkipped
from tests.lists import TEXTS, row

pytestmark = pytest.mark.usefixtures("one_thread")
SOURCE = checkpoints.BUNDLED[1]
CFG = FinetuneConfig("in", "out", objective="order", max_length=512, doc_tokens=16, max_tokens=48)


def lists(**changes: Any) -> listwise.ListwiseExamples:
    return listwise.ListwiseExamples(checkpoints.resolve(SOURCE), dataclasses.replace(CFG, **changes))


def read(builder: listwise.ListwiseExamples, example: Example) -> tuple[str, str]:
    """Return prompt and answer of an example as text."""
    decode = builder.tokenizer.decode
    return decode(list(example.ids[: example.start])), decode(list(example.ids[example.start :]))


def rejected(builder: listwise.ListwiseExamples, item: dict[str, Any]) -> str:
    """Return why a row makes no example."""
    reasons: list[ExampleSkipped] = []
    assert builder(item, reasons.append) == []
    [reason] = reasons
    return str(reason)


# ---- examples -----------------------------------------------------------------------------------------------


def test_the_prompt_is_token_by_token_what_judge_sends_documents_cut_and_shuffled_alike() -> None:
    item = row([1.0, 3.0, 2.0, 0.0], texts=["adds numbers " * 30, *TEXTS[1:]])
    builder = lists(orders=3, seed=5)
    limits = {"doc_tokens": 16, "max_tokens": 48, "engine_kwargs": {"max_model_len": 512}}
    judge = planner.Planner(PromptConfig(task="order", repeats=3, seed=5, **limits), checkpoints.resolve(SOURCE))
    sent = [prompt["token_ids"] for prompt in judge(item)]
    assert [list(one.ids[: one.start]) for one in builder(item)] == sent
    assert len({tuple(prompt) for prompt in sent}) == 3
    assert judge.tokenizer.decode(sent[0]).count("adds numbers") < 10, "the document was not cut"


def test_the_answer_names_documents_by_where_they_are_shown_the_teachers_best_first() -> None:
    builder, item = lists(orders=4), row([1.0, 3.0, 2.0, 0.0])
    shown = planner.shown(item, builder.prompt_cfg)
    assert len({tuple(order) for order in shown}) == 4
    for example, order in zip(builder(item), shown, strict=True):
        prompt, answer = read(builder, example)
        assert f"[{order.index(2) + 1}] sorts a list!!\n" in prompt
        best = " > ".join(f"[{order.index(index) + 1}]" for index in (1, 2, 0, 3))
        assert answer == best + "<|im_end|>"
        parsed = answers.parse_answer(answer.removesuffix("<|im_end|>"), 4)
        assert aggregation.aggregate([parsed], [order]).targets == [2.0, 4.0, 3.0, 1.0], "label reads back the order"


def test_documents_that_the_teacher_left_out_are_left_out_or_appended_as_the_config_says() -> None:
    targets, missing = [0.0, 2.0, 0.0, 1.0], [True, False, True, False]
    assert listwise.ranked_documents(targets, missing, "omit") == [1, 3]
    assert listwise.ranked_documents(targets, missing, "append") == [1, 3, 0, 2]
    builder = lists()
    [order] = planner.shown(row(targets, missing), builder.prompt_cfg)
    [example] = builder(row(targets, missing))
    assert read(builder, example)[1] == f"[{order.index(1) + 1}] > [{order.index(3) + 1}]<|im_end|>"


def test_ties_stand_as_the_candidates_do() -> None:
    assert listwise.ranked_documents([1.0, 2.0, 1.0, 2.0], [False] * 4, "omit") == [1, 3, 0, 2]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (row([1.0]), "one document: 1 of them make no order"),
        (row([]), "one document: 0 of them make no order"),
        (row([0.0, 0.0], [True, True]), "no relevant document: the teacher left out all of them"),
        (row([2.0, 2.0, 2.0]), "all equal: every target is 2"),
        (row([2.0, 1.0], query="which one sorts numbers " * 200), "prompt too long: about"),
    ],
    ids=["one", "none", "no positive", "equal", "long"],
)
def test_a_row_that_says_nothing_about_an_order_is_set_aside_with_the_reason(
    item: dict[str, Any], reason: str
) -> None:
    assert rejected(lists(), item).startswith(reason)


def test_an_answer_longer_than_judge_would_let_it_be_is_set_aside() -> None:
    assert len(lists(max_tokens=16)(row([1.0, 2.0, 3.0, 4.0]))) == 1
    reason = rejected(lists(max_tokens=16), row([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert reason == "answer too long: 20 tokens, max_tokens is 16"


def test_of_many_documents_the_best_and_a_draw_of_the_others_stay() -> None:
    item = row([float(number % 7) for number in range(12)])
    small = listwise.sample_documents(item, 4, seed=0)
    assert len(small["doc_ids"]) == len(set(small["doc_ids"])) == 4
    assert "d6" in small["doc_ids"], "the best"
    by_id = dict(zip(item["doc_ids"], zip(item["texts"], item["targets"], strict=True), strict=True))
    assert [by_id[name] for name in small["doc_ids"]] == list(zip(small["texts"], small["targets"], strict=True))
    assert small["doc_ids"] == sorted(small["doc_ids"], key=item["doc_ids"].index), "in the candidates' order"
    assert listwise.sample_documents(item, 4, seed=0) == small
    assert len({tuple(listwise.sample_documents(item, 4, seed)["doc_ids"]) for seed in range(9)}) > 1
    assert listwise.sample_documents(item, 0, seed=0) == listwise.sample_documents(item, 12, seed=0) == item


# ---- FIRST --------------------------------------------------------------------------------------------------


def test_smollm2_writes_nine_documents_with_one_token_each_and_ten_are_refused() -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints.resolve(SOURCE))
    index, names = identifiers(tokenizer, 9)
    assert index == 1, "a bracket stands before the number"
    assert tokenizer.decode(list(names)) == "123456789"
    with pytest.raises(ValueError, match=r"writes \[10\] and \[1\].*takes at most 9 documents; set docs_per_query"):
        identifiers(tokenizer, 10)


class Words:
    """A tokenizer by a table."""

    def __init__(self, **table: list[int]) -> None:
        self.table = table

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": self.table[text.strip("[]").rjust(2, "n")]}


def test_a_tokenizer_that_writes_brackets_and_number_as_one_token_will_do() -> None:
    assert identifiers(Words(n1=[4], n2=[5], n3=[6]), 3) == (0, (4, 5, 6))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at most 2"):
        identifiers(Words(n1=[4], n2=[5], n3=[6, 7]), 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at most 1"):
        identifiers(Words(n1=[4, 1], n2=[5, 2]), 2)  # type: ignore[arg-type]


def test_an_example_knows_where_its_first_identifier_stands_and_what_each_document_is_called() -> None:
    builder, item = lists(rank_weight=1.0, docs_per_query=4), row([1.0, 3.0, 2.0, 0.0])
    [example], [order] = builder(item), planner.shown(item, builder.prompt_cfg)
    best = order.index(1)
    assert example.ids[example.name_index] == example.names[best]
    assert builder.tokenizer.decode(list(example.names)) == "1234"
    assert example.targets == tuple(item["targets"][index] for index in order)


def test_the_rank_loss_is_ranknet_over_the_identifiers_logits() -> None:
    logits = torch.zeros(2, 10)
    logits[0, 3], logits[0, 5], logits[1, 3], logits[1, 5], logits[1, 7] = 2.0, 1.0, 1.0, 1.0, 4.0
    logits[:, 9] = 100.0  # no identifier's
    examples = [
        Example([], 0, names=(3, 5), targets=(0.0, 1.0)),
        Example([], 0, names=(3, 5, 7), targets=(0.0, 0.0, 1.0)),  # no pair of the two that the teacher left out
    ]
    expected = (math.log(1 + math.exp(1)) + math.log(1 + math.exp(-3))) / 2
    assert float(listwise.rank_loss(logits, examples)) == pytest.approx(expected, abs=1e-6)


# ---- what it is worth ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "ndcg"), [("the best first", 1.0), ("the best last", 1 / math.log2(5)), ("I cannot say", None)]
)
def test_the_orders_that_a_model_writes_are_measured_and_silence_inherits_nothing(
    monkeypatch: pytest.MonkeyPatch, said: str, ndcg: float | None
) -> None:
    item, builder = row([0.0, 0.0, 1.0, 0.0]), lists()
    [order] = planner.shown(item, builder.prompt_cfg)
    best = order.index(2)
    others = [position for position in range(4) if position != best]
    ranked = {"the best first": [best, *others], "the best last": [*others, best]}.get(said)
    answer = said if ranked is None else " > ".join(f"[{position + 1}]" for position in ranked)
    monkeypatch.setattr(listwise, "_answer", lambda *rest: answer)
    as_shown = 1 / math.log2(best + 2)
    assert listwise.greedy_ndcg(None, builder, [item]) == pytest.approx(as_shown if ndcg is None else ndcg)
    alone = row([1.0], qrel_ids=["d0"])
    assert listwise.greedy_ndcg(None, builder, [alone]) == 1.0


def test_a_real_models_answer_is_what_transformers_generates() -> None:
    builder, item = lists(max_tokens=8), row([1.0, 3.0, 2.0, 0.0])
    model = AutoModelForCausalLM.from_pretrained(
        checkpoints.resolve(SOURCE), dtype=torch.float32, num_hidden_layers=2
    ).eval()
    prompt = builder.planner(item)[0]["token_ids"]
    ids = list(prompt)
    with torch.inference_mode():
        while len(ids) < len(prompt) + 8 and ids[-1] != checkpoint.end_of(builder.tokenizer):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = builder.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
    assert listwise._answer(model, builder, prompt) == expected


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("targets", [[3.0, 2.0], [4.0, 3.0, 2.0, 1.0]])
def test_a_row_with_more_or_fewer_targets_than_documents_makes_no_example(targets: list[float], count: int) -> None:
    item = {**row([1.0, 3.0, 2.0]), "targets": targets}
    assert rejected(lists(docs_per_query=count), item).startswith("not one target for each document")


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_target_that_is_not_a_number_is_no_order(lost: float) -> None:
    with pytest.raises(ExampleSkipped, match="target that is not a number"):
        listwise.ranked_documents([lost, 2.0, 1.0], [False] * 3, "omit")
