"""What vLLM's tokens say before an answer is written: grades, rerankers, FIRST, and thinking that has a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rrad_ray import tables
from rrad_ray.config import FinetuneConfig, GateConfig, JudgeConfig, LabelConfig
from rrad_ray.errors import RradError
from rrad_ray.rows import JudgeOutput, Labels
from rrad_ray.serving.pages import sigmoid
from rrad_ray.stages import judge, label
from rrad_ray.tables import checkpoints
from rrad_ray.training.listwise import ListwiseExamples
from tests.fixtures import ENGINE, row_of, table_of
from tests.rerankers import AUTHORS, QUERY, TEXTS, reranker

pytestmark = pytest.mark.ray
FLOAT32 = {**ENGINE, "engine_kwargs": ENGINE["engine_kwargs"] | {"dtype": "float32"}}


def judged(folder: Path, rows: list[dict[str, Any]], **options: Any) -> list[Any]:
    """The output of `judge` over some rows, by vLLM in float32."""
    source, output = table_of(folder / "input", rows), f"{folder}/judged"
    cfg = JudgeConfig(**{"input": source, "output": output, "gate": GateConfig(enabled=False), **FLOAT32, **options})
    return list(tables.read(judge.run(cfg), JudgeOutput))


@pytest.fixture(scope="module")
def smollm2() -> tuple[Any, Any]:
    folder = checkpoints.resolve(checkpoints.BUNDLED[1])
    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.slow
def test_grades_of_vllm_are_those_of_transformers_and_stay_on_their_scale_in_the_labels(
    tmp_path: Path, smollm2: tuple[Any, Any]
) -> None:
    tokenizer, model = smollm2
    rows = [row_of("a", ["adds two numbers", "a red car"]), row_of("b", ["sorts a list", "opens a file", "a sky"])]
    rows = judged(tmp_path, rows, task="grade")
    prompt = JudgeConfig(input="", output="", task="grade").prompt
    digits = tokenizer.convert_tokens_to_ids(list("0123"))
    for row in rows:
        expected = []
        for text in row["texts"]:
            chat = tokenizer.apply_chat_template(
                prompt.chat(row["query"], text), tokenize=False, add_generation_prompt=True
            )
            with torch.inference_mode():
                logits = model(**tokenizer(chat, return_tensors="pt")).logits[0, -1]
            expected.append(float(logits[digits].softmax(0) @ torch.arange(4.0)))
        assert row["judge_scores"] == pytest.approx(expected, abs=1e-3)
        assert row["generated_tokens"] == len(expected)
        assert (row["responses"], row["task"]) == ([], "grade")
    weights = {"weights": {"judge": 1.0}, "scale": "absolute"}
    labelled = label.run(LabelConfig(f"{tmp_path}/judged", f"{tmp_path}/labels", **weights))  # type: ignore[arg-type]
    targets = [row["targets"] for row in tables.read(labelled, Labels)]
    assert targets == [pytest.approx(row["judge_scores"]) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("name", AUTHORS)
def test_a_reranker_is_scored_by_vllm_as_its_authors_do(tmp_path: Path, name: str) -> None:
    folder = reranker(tmp_path / "model", name)
    row = {**row_of("q", TEXTS), "query": QUERY}
    [answered] = judged(tmp_path, [row], task="grade", template=name, model=folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = [AUTHORS[name](tokenizer, model, QUERY, text)[1] for text in TEXTS]
    assert answered["judge_scores"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_a_reranker_turned_into_a_classifier_is_scored_with_its_words_as_its_authors_do(tmp_path: Path) -> None:
    """As published for Qwen3-Reranker: the head's only row is that of "yes" less that of "no"."""
    folder = reranker(tmp_path / "model", "qwen3-reranker")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    yes, no = (model.lm_head.weight[tokenizer.convert_tokens_to_ids(label)] for label in ("yes", "no"))
    head = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    head.score.weight.data = (yes - no)[None].detach().clone()
    head.save_pretrained(folder)
    options: dict[str, Any] = {"task": "score", "model": folder}
    with pytest.raises(RradError, match=r"puts nothing between query and document.*template="):
        judged(tmp_path, [{**row_of("q", TEXTS), "query": QUERY}], **options)
    row = {**row_of("q", TEXTS), "query": QUERY}
    [answered] = judged(tmp_path / "worded", [row], template="qwen3-reranker", **options)
    probabilities = [AUTHORS["qwen3-reranker"](tokenizer, model, QUERY, text)[1] for text in TEXTS]
    assert [sigmoid(score) for score in answered["judge_scores"]] == pytest.approx(probabilities, abs=1e-3)


@pytest.mark.slow
def test_the_first_tokens_logits_are_those_that_finetune_trains_and_make_order_and_scores(
    tmp_path: Path, smollm2: tuple[Any, Any]
) -> None:
    _, model = smollm2
    row = row_of("a", ["adds two numbers", "a red car", "sorts a list"])
    [answered] = judged(tmp_path, [row], task="order", answer="first_token", repeats=2, seed=3)
    learnt = {**row, "targets": [3.0, 2.0, 1.0], "missing": [False] * 3, "reasons": []}
    options = {"rank_weight": 1.0, "docs_per_query": 3, "orders": 2, "seed": 3, "max_length": 512}
    cfg = FinetuneConfig(input="", output="", objective="order", **options)  # type: ignore[arg-type]
    mean = [0.0] * 3
    for example, shown in zip(
        ListwiseExamples(checkpoints.resolve(cfg.model), cfg)(learnt), answered["shown"], strict=True
    ):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([list(example.ids[: example.name_index])])).logits[0, -1]
        logprobs = logits.log_softmax(0)[list(example.names)].tolist()
        for index, logprob in zip(shown, logprobs, strict=True):
            mean[index] += logprob / 2
    assert answered["judge_scores"] == pytest.approx(mean, abs=1e-3)
    assert answered["generated_tokens"] == 2


@pytest.mark.slow
def test_thinking_ends_at_its_budget_and_the_answer_follows(tmp_path: Path, smollm2: tuple[Any, Any]) -> None:
    tokenizer, model = smollm2
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    thinks = f"{tokenizer.chat_template}{{{{ '<think>\n' }}}}"
    (folder / "chat_template.jinja").write_text(thinks)
    rows = [row_of(str(number), ["adds two numbers", f"a red car {number}"]) for number in range(4)]
    options = {"task": "order", "thinking_tokens": 8, "max_tokens": 16, "model": str(folder)}
    for row in judged(tmp_path, rows, **options):
        [answer] = row["responses"]
        thought, end, _ = answer.partition("</think>")
        assert end
        assert len(tokenizer(thought)["input_ids"]) <= 9  # vLLM lets one token more through
