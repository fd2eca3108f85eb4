"""Causal LMs trained by `fit`: losses, dev figures, checkpoints, and resumed runs."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rrad_ray.config import FinetuneConfig
from rrad_ray.config.load import build_config
from rrad_ray.errors import RradError
from rrad_ray.rankers import lora
from rrad_ray.tables import checkpoints
from rrad_ray.training import listwise, lm_task, packing
from rrad_ray.training.loop import STATE, fit
from rrad_ray.training.packing import Example
from rrad_ray.training.task import TrainWorker
from tests import tiny
from tests.lists import row

pytestmark = pytest.mark.usefixtures("one_thread")
SOURCE = checkpoints.BUNDLED[1]
CFG = FinetuneConfig(
    "in",
    "out",
    layers=2,
    max_length=96,
    sequences_per_step=2,
    epochs=100.0,
    max_steps=6,
    warmup_steps=1,
    lr=1e-3,
    dtype="float32",
    eval_steps=3,
)
ADAPTED = dataclasses.replace(CFG, lora_rank=4, lr=1e-2, max_steps=6)
ORDER = dataclasses.replace(CFG, objective="order", max_length=320, doc_tokens=8, max_tokens=24, docs_per_query=4)
CLICKS = [
    {"query": f"question {number}", "title": f"Answer {number}", "summary": "it depends " * (number % 5)}
    for number in range(24)
]
Weights = dict[str, torch.Tensor]


def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(checkpoints.resolve(SOURCE))


def click_task(cfg: FinetuneConfig = CFG) -> lm_task.ClickTask:
    return lm_task.ClickTask(checkpoints.resolve(SOURCE), tokenizer(), cfg)


def order_task(cfg: FinetuneConfig = ORDER) -> lm_task.OrderTask:
    source = checkpoints.resolve(SOURCE)
    return lm_task.OrderTask(source, listwise.ListwiseExamples(source, cfg), cfg)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return list(packing.from_clicks(CLICKS, tokenizer(), CFG.max_length, pytest.fail))


def train(
    task: lm_task.ClickTask, examples: list[Example], cfg: FinetuneConfig, folder: Path, dev: Any = (), **more: Any
) -> list[dict[str, float]]:
    """Train; return the reports of `fit`. Checkpoints are in folders named after their step."""
    heard: list[dict[str, float]] = []

    def report(metrics: dict[str, float], save: Callable[[Path], None] | None) -> None:
        heard.append(metrics)
        if save:
            checkpoint = folder / f"step-{metrics['step']}"
            checkpoint.mkdir(parents=True)
            save(checkpoint)

    packs = packing.pack_examples(examples, cfg.max_length)
    steps = lm_task.lm_steps_in_epoch(packs, cfg, TrainWorker())
    fit(task, lm_task.Packs(packs, cfg, steps), steps, cfg, TrainWorker(report=report, **more), dev)
    return heard


def weights(folder: Path) -> Weights:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()


# ---- the loss -----------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_all_target_tokens_of_the_step_not_over_examples(examples: list[Example]) -> None:
    task = click_task()
    packs = packing.pack_examples(examples, CFG.max_length)[:3]
    with torch.no_grad():
        losses = task(packs)
    assert list(losses) == ["token"]
    total, count = 0.0, 0
    for example in (one for pack in packs for one in pack):
        ids = torch.tensor([list(example.ids)])
        with torch.inference_mode():
            logits = task.model(ids).logits[0, example.start - 1 : -1]
        total += float(cross_entropy(logits, ids[0, example.start :], reduction="sum"))
        count += len(logits)
    assert float(losses["token"]) == pytest.approx(total / count, abs=1e-5)
    assert task.pairs(packs) == sum(len(pack) for pack in packs)


def test_what_stands_in_the_prompt_is_not_learnt(examples: list[Example]) -> None:
    targets = [token for example in examples for token in example.ids[example.start :]]
    assert packing.join_examples(examples).wanted_T.tolist() == targets
    assert len(targets) < sum(len(example.ids) for example in examples)


@torch.no_grad()
def test_the_labellers_loss_has_two_parts_and_the_rank_part_reads_the_first_identifier() -> None:
    task = order_task(dataclasses.replace(ORDER, rank_weight=3.0))
    examples = [one for number in range(3) for one in task.lists(row([1.0, 3.0, 2.0, 0.0], query_id=f"q{number}"))]
    packs = packing.pack_examples(examples, ORDER.max_length)
    assert any(len(pack) > 1 for pack in packs)
    losses = task(packs)
    assert list(losses) == ["token", "rank"]
    by_hand = []
    for example in examples:
        with torch.inference_mode():
            logits = task.model(torch.tensor([list(example.ids)])).logits[0, example.name_index - 1]
        scores = logits[list(example.names)].tolist()
        pairs = [(i, j) for i in range(4) for j in range(4) if example.targets[i] > example.targets[j]]
        by_hand.append(sum(math.log(1 + math.exp(scores[j] - scores[i])) for i, j in pairs) / len(pairs))
    assert float(losses["rank"]) == pytest.approx(3.0 * sum(by_hand) / 3, abs=1e-3)
    plain = dataclasses.replace(ORDER, rank_weight=0.0)
    task.cfg = plain
    assert list(task(packs)) == ["token"]
    assert float(task(packs)["token"]) == pytest.approx(float(losses["token"]), abs=1e-6)


def test_gradient_checkpointing_changes_no_gradient(examples: list[Example]) -> None:
    packs = packing.pack_examples(examples, CFG.max_length)[:2]
    gradients = []
    for checkpointing in (False, True):
        task = click_task(dataclasses.replace(CFG, gradient_checkpointing=checkpointing)).train()
        task(packs)["token"].backward()
        gradients.append(
            torch.cat([weight.grad.flatten() for weight in task.parameters() if weight.grad is not None])
        )
    torch.testing.assert_close(gradients[0], gradients[1])


# ---- fit ----------------------------------------------------------------------------------------------------


def test_perplexity_falls_and_the_checkpoint_is_a_plain_causal_lm_of_its_sources_dtype(
    examples: list[Example], tmp_path: Path
) -> None:
    task = click_task()
    before = math.exp(packing.mean_nll(task.model, examples[:6], 96))
    heard = train(task, examples, CFG, tmp_path, dev=examples[:6])
    assert [metrics["step"] for metrics in heard if "final" in metrics] == [3, 6]
    assert heard[-1]["dev_perplexity"] < 0.5 * before
    assert heard[-1]["dev_perplexity"] == pytest.approx(math.exp(packing.mean_nll(task.model, examples[:6], 96)))
    assert json.loads((tmp_path / "step-6" / "config.json").read_text())["dtype"] == "bfloat16"
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "step-6", dtype=torch.float32)
    trained = dict(task.model.named_parameters())
    for name, weight in kept.named_parameters():
        torch.testing.assert_close(weight, trained[name].to(torch.bfloat16).float(), rtol=0, atol=0)
    assert kept.lm_head.weight is kept.model.embed_tokens.weight, "tied as before"
    again = AutoTokenizer.from_pretrained(tmp_path / "step-6")
    assert again.chat_template == task.tokenizer.chat_template


def test_the_decoder_student_and_teacher_begin_from_what_was_tuned(examples: list[Example], tmp_path: Path) -> None:
    task = click_task()
    train(task, examples, dataclasses.replace(CFG, max_steps=1), tmp_path)
    ranker = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "step-1", num_labels=1, dtype=torch.float32
    )
    tuned = dict(task.model.named_parameters())["model.layers.1.mlp.up_proj.weight"]
    torch.testing.assert_close(ranker.model.layers[1].mlp.up_proj.weight, tuned.to(torch.bfloat16).float())


@pytest.mark.parametrize("rank", [0, 4])
def test_a_run_gone_on_with_ends_where_an_undisturbed_one_does(
    examples: list[Example], tmp_path: Path, rank: int
) -> None:
    cfg = dataclasses.replace(CFG, freeze_embeddings=True, max_steps=4, eval_steps=2, lora_rank=rank)
    train(click_task(cfg), examples, cfg, tmp_path / "whole")
    train(click_task(cfg), examples, cfg, tmp_path / "again", resume=tmp_path / "whole" / "step-2")
    assert (tmp_path / "whole" / "step-2" / STATE).exists()
    middle, whole, again = (weights(tmp_path / name) for name in ("whole/step-2", "whole/step-4", "again/step-4"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert not all(torch.equal(whole[name], middle[name]) for name in whole)


def test_too_few_sequences_for_a_step_say_what_to_lower(examples: list[Example]) -> None:
    packs = packing.pack_examples(examples, CFG.max_length)
    assert lm_task.lm_steps_in_epoch(packs, CFG, TrainWorker()) == len(packs) // 2 == 2
    cfg = dataclasses.replace(CFG, sequences_per_step=6)
    with pytest.raises(ValueError, match=r"5 sequences of 96 tokens do not fill a step of 6.*lower max_length"):
        lm_task.lm_steps_in_epoch(packs, cfg, TrainWorker())


def test_every_epoch_takes_the_sequences_in_another_order_the_same_for_a_seed(examples: list[Example]) -> None:
    packs = packing.pack_examples(examples, CFG.max_length)
    data = lm_task.Packs(packs, CFG, 2)
    first, second = ([pack for batch in data(epoch) for pack in batch] for epoch in (0, 1))
    assert len(first) == 4
    assert all(first.count(pack) == 1 for pack in first)
    assert first != second
    assert first == [pack for batch in lm_task.Packs(packs, CFG, 2)(0) for pack in batch]


@pytest.mark.slow
def test_a_labeller_learns_an_order_and_its_dev_figures_are_of_the_orders_it_writes(tmp_path: Path) -> None:
    """The document that speaks of sorting is the best wherever it is shown: a few steps teach the form."""
    rows = [row([1.0, 2.0, 3.0, 0.0], query_id=f"q{number}") for number in range(16)]
    cfg = dataclasses.replace(ORDER, max_steps=12, eval_steps=12, rank_weight=0.1)
    task = order_task(cfg)
    examples = [one for item in rows for one in task.lists(item)]
    before = task.measure(rows[:2])
    heard = train(task, examples, cfg, tmp_path, dev=rows[:2])
    assert {"loss_token", "loss_rank", "dev_ndcg", "dev_token_loss"} <= set(heard[-1])
    assert heard[-1]["dev_token_loss"] < 0.5 * before["dev_token_loss"]
    assert heard[-1]["dev_ndcg"] == listwise.greedy_ndcg(task.model, task.lists, rows[:2])


# ---- adapters -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapted(examples: list[Example], tmp_path_factory: pytest.TempPathFactory) -> tuple[lm_task.ClickTask, Path]:
    """A task trained with adapters of rank 4, and its checkpoint."""
    folder = tmp_path_factory.mktemp("adapted")
    task = click_task(ADAPTED)
    before = task.measure(examples[:6])
    heard = train(task, examples, ADAPTED, folder, dev=examples[:6])
    assert heard[-1]["dev_perplexity"] < 0.8 * before["dev_perplexity"]
    return task.eval(), folder / "step-6"


def test_adapters_stand_on_every_linear_layer_but_the_output_and_they_alone_are_trained(
    adapted: tuple[lm_task.ClickTask, Path],
) -> None:
    trained = {name for name, weight in adapted[0].named_parameters() if weight.requires_grad}
    kinds = [f"self_attn.{kind}_proj" for kind in "qkvo"] + [f"mlp.{kind}_proj" for kind in ("gate", "up", "down")]
    layers = [f"model.model.layers.{number}.{kind}" for number in (0, 1) for kind in kinds]
    assert trained == {f"{layer}.lora_{half}.default.weight" for layer in layers for half in "AB"}
    source = AutoModelForCausalLM.from_pretrained(
        checkpoints.resolve(SOURCE), num_hidden_layers=2, dtype=torch.float32
    )
    whole = dict(adapted[0].model.named_parameters())
    for name, weight in source.named_parameters():
        full_name = name if name in whole else name.replace(".weight", ".base_layer.weight")
        assert torch.equal(whole[full_name], weight), name


def test_what_adapters_learnt_is_saved_merged_as_a_plain_causal_lm(
    adapted: tuple[lm_task.ClickTask, Path], examples: list[Example]
) -> None:
    task, folder = adapted
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert {"lora" in name for name in model.state_dict()} == {False}
    measured = task.measure(examples[:6])["dev_perplexity"]
    assert math.exp(packing.mean_nll(model.eval(), examples[:6], 96)) == pytest.approx(measured, rel=0.02)
    assert any("lora" in name for name in task.state_dict()), "training goes on with them"


def test_the_adapter_alone_gives_the_same_model_again_on_the_one_that_it_began_from(
    adapted: tuple[lm_task.ClickTask, Path],
) -> None:
    task, folder = adapted
    source = AutoModelForCausalLM.from_pretrained(
        checkpoints.resolve(SOURCE), num_hidden_layers=2, dtype=torch.float32
    )
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.inference_mode():
        without = source(ids).logits
        again = peft.PeftModel.from_pretrained(source, folder / lora.FOLDER).eval()(ids).logits
        torch.testing.assert_close(again, task.model(ids).logits, rtol=0, atol=1e-4)
    assert (again - without).abs().max() > 0.1
    sizes = [(folder / name).stat().st_size for name in ("adapter/adapter_model.safetensors", "model.safetensors")]
    assert sizes[0] < sizes[1] / 100


# ---- what is missing ----------------------------------------------------------------------------------------


def test_adapters_without_peft_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    cfg = dataclasses.replace(CFG, lora_rank=8)
    for attempt in (lm_task.check_finetune, lm_task.load_causal_lm):
        with pytest.raises(ValueError, match=r"lora_rank=8 needs peft.*pip install peft, or .* lora_rank=0"):
            attempt(checkpoints.resolve(SOURCE), cfg)


def test_a_tokenizer_without_an_end_or_with_too_few_identifiers_stops_before_anything_starts(tmp_path: Path) -> None:
    tiny.save(tmp_path, "Llama", "ForCausalLM", max_position_embeddings=CFG.max_length)
    blunt = tiny.tokenizer()
    blunt.eos_token = None
    blunt.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no eos token"):
        lm_task.check_finetune(str(tmp_path), CFG)
    with pytest.raises(ValueError, match="takes at most 9 documents; set docs_per_query"):
        lm_task.check_finetune(
            checkpoints.resolve(SOURCE), dataclasses.replace(ORDER, rank_weight=1.0, docs_per_query=12)
        )
    lm_task.check_finetune(checkpoints.resolve(SOURCE), dataclasses.replace(ORDER, docs_per_query=12))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objective": "chat"}, "choose one of clicks, order"),
        ({"objective": "order", "rank_weight": 1.0}, "say how many there are at most"),
        ({"objective": "order", "max_length": 96, "max_tokens": 96}, "the answer is part of max_length"),
        ({"docs_per_query": 1}, "an order needs two documents"),
        ({"held_out": 1.0}, "held_out=1.0: must be below 1"),
        ({"splits": ("trian",)}, "choose one of train"),
    ],
)
def test_a_config_that_cannot_work_says_why(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RradError, match=says):
        build_config(FinetuneConfig, {"input": "in", "output": "out", **changes}, "c.yaml")
