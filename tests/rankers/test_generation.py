"""Label and reason behind the pair: what is to be written, its exact loss, a student that stays a plain ranker."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from rrad_ray.config import GenerationConfig, TrainConfig
from rrad_ray.rankers import generation
from rrad_ray.rankers.generation import LM_HEAD, Explainer, target_texts
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.tables import checkpoints
from rrad_ray.training.rank_task import RankBatches, RankTask
from tests import toys
from tests.toys import causal_lm, fitted, label

pytestmark = pytest.mark.usefixtures("one_thread")
CFG = dataclasses.replace(
    toys.CFG,
    kind="decoder",
    max_length=64,
    epochs=1000.0,
    max_steps=4,
    lr=3e-3,
    eval_steps=1000,
    losses={"ranknet": 1.0},
    generation=GenerationConfig(weight=0.5, max_tokens=24),
)
QUERY, TEXTS = "sort a list", ["sorted() sorts a list", "", "open a file and read it line by line. " * 20, "a list"]


def changed(**changes: Any) -> TrainConfig:
    return dataclasses.replace(CFG, **changes)


def explained(number: int) -> dict[str, Any]:
    """A toy row whose last document the LLM left out, and a reason for each document but the second."""
    row = label(number)
    reasons = [f"It can {text.removeprefix('this can ').rstrip('!')}." for text in row["texts"]]
    reasons[1] = ""
    targets = [*row["targets"][:3], -99.0]
    return row | {"targets": targets, "missing": [False, False, False, True], "reasons": reasons}


ROWS = [explained(number) for number in range(8)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Small causal LMs: the output layer is the embeddings, or is not."""
    words = [text for row in ROWS for text in (*row["texts"], *target_texts(row))]
    return {name: causal_lm(tmp_path_factory.mktemp(name), words, name == "tied") for name in ("tied", "untied")}


@pytest.fixture(scope="module", params=["tied", "untied"])
def source(request: pytest.FixtureRequest, sources: dict[str, str]) -> str:
    return sources[request.param]


def task(source: str, cfg: TrainConfig = CFG) -> RankTask:
    torch.manual_seed(7)
    made = RankTask.fresh(source, cfg)
    torch.nn.init.normal_(made.model.score.weight, std=0.5)
    return made


# ---- what is to be written ----------------------------------------------------------------------------------


def test_the_label_says_in_which_third_of_the_ranked_documents_the_place_is() -> None:
    row = {"targets": [6.0, 5.0, 4.0, 3.0, 2.0, 1.0], "missing": [False] * 6, "reasons": []}
    top, middle, low = generation.RELEVANT
    assert target_texts(row) == [top, top, middle, middle, low, low]
    shuffled = {"targets": [1.0, 6.0, 3.0, -9.0], "missing": [False, False, False, True], "reasons": []}
    assert target_texts(shuffled) == [low, top, middle, "irrelevant"]
    equal = {"targets": [0.5, 0.5, 0.5], "missing": [False] * 3, "reasons": []}
    assert target_texts(equal) == [top, top, top]
    alone = {"targets": [0.0, -1.0], "missing": [False, True], "reasons": []}
    assert target_texts(alone) == [top, "irrelevant"]
    assert target_texts({"targets": [0.0, 0.0], "missing": [True, True], "reasons": []}) == ["irrelevant"] * 2


def test_the_reason_stands_below_the_label_and_an_empty_one_leaves_the_label_alone() -> None:
    row = {"targets": [2.0, 1.0], "missing": [False, True], "reasons": ["  It\n sorts. ", " "]}
    assert target_texts(row) == ["highly relevant\nIt sorts.", "irrelevant"]


def test_an_answer_ends_with_the_end_token_unless_it_is_cut(source: str) -> None:
    tokenizer = task(source).ranker.tokenizer
    whole, cut = generation.encode(tokenizer, ["irrelevant", "irrelevant\nIt opens files."], 6)
    assert tokenizer.decode(whole) == f" irrelevant{tokenizer.eos_token}"
    assert len(cut) == 6
    assert tokenizer.eos_token_id not in cut


def test_a_sample_keeps_the_label_of_a_documents_place_among_all_and_its_own_reason() -> None:
    row = label(0, documents=8) | {"missing": [False] * 7 + [True], "reasons": [f"reason {i}" for i in range(8)]}
    by_text = dict(zip(row["texts"], target_texts(row), strict=True))
    seen = set[str]()
    data = RankBatches([row], changed(queries_per_step=1))
    for epoch in range(20):
        ((sample,),) = data(epoch)
        assert sample["answers"] == [by_text[text] for text in sample["texts"]]
        assert len(sample["answers"]) == 3
        seen |= set(sample["answers"])
    assert len(seen) == 8
    ((plain,),) = RankBatches([row], changed(queries_per_step=1, generation=GenerationConfig()))(0)
    assert "answers" not in plain


# ---- the losses ---------------------------------------------------------------------------------------------


def batch(rows: list[dict[str, Any]] = ROWS) -> list[Any]:
    return [row | {"answers": target_texts(row)} for row in rows]


def by_hand(made: RankTask, rows: list[Any]) -> float:
    """The mean loss of the target tokens, pair by pair, from a causal LM of transformers."""
    tokenizer, embeddings = made.ranker.tokenizer, made.model.get_input_embeddings()
    head = embeddings.weight if made.head is None else made.head.weight
    losses = []
    for row in rows:
        for text, answer in zip(row["texts"], row["answers"], strict=True):
            pair = tokenizer(row["query"], text, truncation=True, max_length=CFG.max_length)["input_ids"]
            target = tokenizer(answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
            target = target[: CFG.generation.max_tokens]
            ids = torch.tensor([pair + target])
            logprobs = (made.model.base_model(input_ids=ids).last_hidden_state[0] @ head.T).log_softmax(-1)
            losses += [-float(logprobs[len(pair) - 1 + k, token]) for k, token in enumerate(target)]
    return sum(losses) / len(losses)


def test_the_token_loss_is_that_of_label_reason_and_end_alone(source: str) -> None:
    made, rows = task(source).eval(), batch()
    with torch.inference_mode():
        parts = made(rows)
        assert list(parts) == ["rank", "tokens"]
        assert float(parts["tokens"]) == pytest.approx(0.5 * by_hand(made, rows), rel=1e-5)
        other = [row | {"answers": ["irrelevant"] * 4} for row in rows]
        assert float(made(other)["tokens"]) == pytest.approx(0.5 * by_hand(made, other), rel=1e-5)


def test_with_tied_embeddings_it_is_the_loss_of_a_causal_lm_loaded_from_the_saved_student(
    sources: dict[str, str], tmp_path: Path
) -> None:
    made, (row,) = task(sources["tied"]).eval(), batch(ROWS[:1])
    made.save(tmp_path, {name: weight.detach() for name, weight in made.named_parameters()})
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    targets = generation.encode(made.ranker.tokenizer, row["answers"], CFG.generation.max_tokens)
    sums = []
    with torch.inference_mode():
        for text, target in zip(row["texts"], targets, strict=True):
            pair = made.ranker.encode([row["query"]], [text])[0]["input_ids"]
            labels = torch.tensor([[-100] * len(pair) + target])
            sums.append(len(target) * float(model(input_ids=torch.tensor([pair + target]), labels=labels).loss))
        expected = 0.5 * sum(sums) / sum(map(len, targets))
        assert float(made([row])["tokens"]) == pytest.approx(expected, rel=1e-5)


def test_the_score_is_the_same_with_and_without_something_to_write(source: str) -> None:
    made = task(source).eval()
    ranker = made.ranker
    pairs = ranker.encode([QUERY] * len(TEXTS), TEXTS)
    project = generation.projection(ranker, made.head)
    with torch.inference_mode():
        plain = ranker.logits(pairs, 2048).tolist()
        assert max(plain) - min(plain) > 0.1
        for tokens in (1, 2048):
            for words in (["a"] * 4, ["irrelevant", "relevant\nIt sorts.", "relevant " * 9, "a"]):
                targets = generation.encode(ranker.tokenizer, words, 24)
                scores, _ = generation.joint(ranker, project, pairs, targets, tokens)
                assert scores.tolist() == pytest.approx(plain, abs=1e-5)


def test_both_losses_come_from_one_forward_pass_and_both_reach_the_first_layer(source: str) -> None:
    made, lengths = task(source), list[int]()
    made.model.base_model.register_forward_hook(lambda *call: lengths.append(call[2].last_hidden_state.shape[0]))
    for name in ("rank", "tokens"):
        made.zero_grad()
        made(batch(ROWS[:2]))[name].backward()
        assert made.model.base_model.layers[0].self_attn.q_proj.weight.grad.abs().max() > 0, name
    assert lengths == [8, 8], "a pass for each batch of eight pairs"


def test_under_ddp_both_train_the_same(source: str, tmp_path: Path) -> None:
    alone, together = task(source), task(source)
    fitted(alone, CFG, rows=ROWS)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        fitted(together, CFG, rows=ROWS)
    finally:
        dist.destroy_process_group()
    for one, other in zip(alone.parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_without_a_weight_a_decoder_trains_exactly_as_one_that_only_ranks(source: str) -> None:
    made = []
    for rows, max_tokens in ((ROWS, 3), ([row | {"reasons": []} for row in ROWS], 64)):
        cfg = changed(generation=GenerationConfig(weight=0.0, max_tokens=max_tokens))
        made.append(task(source, cfg))
        assert made[-1].head is None
        assert list(made[-1](rows[:2])) == ["rank"]
        fitted(made[-1], cfg, rows=rows)
    assert all(torch.equal(a, b) for a, b in zip(made[0].parameters(), made[1].parameters(), strict=True))


# ---- the student --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(source: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[RankTask, Path]:
    """A student that has learned a few rows by heart, and where it is saved."""
    cfg = changed(max_steps=150, docs_per_query=4, freeze_embeddings=False, lr=1e-2)
    made, folder = task(source, cfg), tmp_path_factory.mktemp("learned")
    fitted(made, cfg, folder, rows=ROWS[:4])
    return made.eval(), folder / "step-150"


def test_a_short_training_lowers_both_losses(source: str) -> None:
    cfg = changed(max_steps=19, eval_steps=1)
    listener = fitted(task(source, cfg), cfg, rows=ROWS)
    for name in ("loss_rank", "loss_tokens"):
        each = listener.each(name)
        assert sum(each[-4:]) < 0.8 * sum(each[:4]), name


def test_a_saved_student_is_a_plain_ranker_whatever_it_learned_to_write(
    learned: tuple[RankTask, Path], source: str
) -> None:
    made, folder = learned
    names = set(load_file(folder / "model.safetensors"))
    assert names == {name for name in made.model.state_dict() if not name.startswith("lm_head")}
    assert "lm_head.weight" not in names
    assert (folder / LM_HEAD).is_file() == (made.head is not None)
    model, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer([QUERY] * 4, TEXTS, truncation=True, padding=True, return_tensors="pt")
    with torch.inference_mode():
        plain = model.eval()(**inputs).logits[:, 0].tolist()
    assert made.ranker.score(QUERY, TEXTS) == pytest.approx(plain, abs=1e-4)
    assert Ranker.load(str(folder), dtype="float32").score(QUERY, TEXTS) == pytest.approx(plain, abs=1e-4)


def test_a_saved_student_writes_the_label_and_the_reason_that_it_learned(
    learned: tuple[RankTask, Path],
) -> None:
    explainer = Explainer.load(str(learned[1]), dtype="float32")
    for row in ROWS[:4]:
        assert [explainer.explain(row["query"], text) for text in row["texts"]] == target_texts(row)
    ranker = explainer.ranker
    ranker.score(QUERY, TEXTS)
    truncation = ranker.tokenizer.backend_tokenizer.truncation
    explainer.explain(QUERY, "a list " * 500, max_tokens=2000)  # the pair has to leave room for them
    assert ranker.tokenizer.backend_tokenizer.truncation == truncation, "other threads score by it meanwhile"
    short = explainer.explain(ROWS[0]["query"], ROWS[0]["texts"][0], max_tokens=4)
    assert 0 < len(short) < len(target_texts(ROWS[0])[0])
    assert target_texts(ROWS[0])[0].startswith(short)


def test_a_killed_run_goes_on_with_the_output_layer_as_it_stood(source: str, tmp_path: Path) -> None:
    cfg = changed(max_steps=6, eval_steps=3, freeze_embeddings=False)
    whole, again = tmp_path / "whole", tmp_path / "again"
    whole.mkdir()
    again.mkdir()
    made, resumed = task(source, cfg), task(source, cfg)
    before: dict[str, Tensor] = {name: weight.detach().clone() for name, weight in made.named_parameters()}
    fitted(made, cfg, whole, rows=ROWS)
    fitted(resumed, cfg, again, rows=ROWS, resume=whole / "step-3")
    after = dict(resumed.named_parameters())
    for name, weight in made.named_parameters():
        assert (after[name] - weight).abs().max() < 1e-5, name
        assert not torch.equal(weight, before[name]), name


def test_frozen_embeddings_freeze_the_output_layer_too(sources: dict[str, str]) -> None:
    made = task(sources["untied"])
    assert made.head is not None
    before = made.head.weight.detach().clone()
    fitted(made, CFG, rows=ROWS)
    assert torch.equal(made.head.weight, before)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_student_that_has_not_learnt_to_write_says_how_to_get_one(
    sources: dict[str, str], tmp_path: Path, kind: str
) -> None:
    if kind == "encoder":
        Ranker.encoder(checkpoints.resolve(checkpoints.BUNDLED[0]), max_length=16, layers=1).save(tmp_path)
    else:
        Ranker.decoder(sources["tied"], max_length=24).save(tmp_path)
    with pytest.raises(ValueError, match=r"was not trained to write; train a decoder with generation.weight above 0"):
        Explainer.load(str(tmp_path))


def test_an_encoder_writes_nothing() -> None:
    with pytest.raises(ValueError, match=r"generation.weight=0.5: only for kind=decoder"):
        changed(kind="encoder")
