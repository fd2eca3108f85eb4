"""The training loop on a real model with two layers, and its parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rrad_ray.config import TrainConfig
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.tables import checkpoints
from rrad_ray.training.loop import STATE
from rrad_ray.training.optimizer import MasterAdamW, share_of_peak
from rrad_ray.training.rank_task import RankBatches, RankTask, collate, dev_scores, flat, mean_ndcg
from tests import toys
from tests.toys import ROWS, Listener, fitted, label

pytestmark = pytest.mark.usefixtures("one_thread")
CFG = dataclasses.replace(toys.CFG, layers=2, dropout=0.1)


def changed(**changes: Any) -> TrainConfig:
    return dataclasses.replace(CFG, **changes)


def encoder() -> Ranker:
    torch.manual_seed(7)
    return Ranker.encoder(checkpoints.resolve(checkpoints.BUNDLED[0]), max_length=CFG.max_length, layers=2)


def dev_ndcg(ranker: Ranker, rows: list[dict[str, Any]]) -> float:
    return mean_ndcg(rows, dev_scores(ranker, rows))


def train(ranker: Ranker, cfg: TrainConfig, folder: Path | None = None, **more: Any) -> Listener:
    return fitted(RankTask(ranker, cfg), cfg, folder, **more)


def weights(folder: Path) -> dict[str, Tensor]:
    return Ranker.load(str(folder), dtype="float32").model.state_dict()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ranker, Listener, dict[str, Tensor], float]:
    """Return a ranker after twelve undisturbed steps, the listener, and the weights and dev nDCG before."""
    ranker = encoder()
    before = {name: weight.clone() for name, weight in ranker.model.state_dict().items()}
    first = dev_ndcg(ranker.eval(), ROWS)
    listener = train(ranker, CFG, tmp_path_factory.mktemp("trained"), dev=ROWS)
    return ranker, listener, before, first


Trained = tuple[Ranker, Listener, dict[str, Tensor], float]


# ---- fit ----------------------------------------------------------------------------------------------------


def losses_by_step(ranker: Ranker, cfg: TrainConfig) -> list[float]:
    return train(ranker, dataclasses.replace(cfg, eval_steps=1)).each("loss")


def test_the_loss_falls_and_the_ranking_gets_better(trained: Trained) -> None:
    losses = losses_by_step(encoder(), changed(max_steps=16, losses={"ranknet": 1.0}, dropout=0.0))
    assert len(losses) == 16
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
    ranker, listener, _, before = trained
    assert listener.heard[-1]["dev_ndcg"] > before
    assert listener.heard[-1]["dev_ndcg"] == pytest.approx(dev_ndcg(ranker.eval(), ROWS), abs=1e-6)


def test_checkpoints_come_every_eval_steps_and_once_at_the_end(trained: Trained) -> None:
    listener = trained[1]
    assert [(metrics["step"], metrics["final"]) for metrics in listener.heard] == [(6, 0.0), (12, 1.0)]
    assert sorted(path.name for path in listener.folder.iterdir()) == ["step-12", "step-6"]
    assert all((path / STATE).is_file() for path in listener.folder.iterdir())


def test_the_last_checkpoint_is_the_ranker_as_it_stands(trained: Trained) -> None:
    ranker, listener, _, _ = trained
    saved = weights(listener.folder / "step-12")
    for name, weight in ranker.model.state_dict().items():
        assert torch.equal(saved[name], weight), name


def test_a_run_that_goes_on_from_a_checkpoint_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path: Path, trained: Trained
) -> None:
    listener = trained[1]
    middle, end = listener.folder / "step-6", weights(listener.folder / "step-12")
    halfway = weights(middle)
    resumed = encoder()
    torch.manual_seed(12345)  # what happened in the process before must not matter
    torch.rand(17)
    again = train(resumed, CFG, tmp_path, resume=middle)
    assert [metrics["step"] for metrics in again.heard] == [12]
    moved = 0.0
    for name, weight in weights(tmp_path / "step-12").items():
        assert torch.equal(weight, end[name]), name
        moved = max(moved, float((weight - halfway[name]).abs().max()))
    assert moved > 1e-3  # the second half did change them
    assert again.heard[-1]["loss"] == pytest.approx(listener.heard[-1]["loss"], abs=1e-4)


def test_a_run_that_a_lower_limit_has_ended_before_it_goes_on_says_so_once_with_a_checkpoint(
    tmp_path: Path, trained: Trained
) -> None:
    before = trained[1].folder
    for name, cfg, step, ended in (
        ("time", changed(max_seconds=1e-6), 6, ["time"]),
        ("steps", changed(max_steps=6), 6, ["steps"]),
        ("finished", CFG, 12, []),
    ):
        (tmp_path / name).mkdir()
        again = train(encoder(), cfg, tmp_path / name, resume=before / f"step-{step}")
        assert [metrics["ended"] for metrics in again.heard] == ended, name
        assert [metrics["final"] for metrics in again.heard] == [1.0] * len(ended)
        assert (tmp_path / name / "step-6").is_dir() == bool(ended)


def test_with_weight_averaging_the_student_is_the_mean_of_its_weights_from_then_on(tmp_path: Path) -> None:
    averaged = changed(average_from=0.5, eval_steps=3, dropout=0.0)  # of 12 steps: 6 to 12
    seen: list[list[Tensor]] = []
    ranker, real = encoder(), MasterAdamW.step

    def spied(self: MasterAdamW, share: float) -> float:
        norm = real(self, share)
        assert self.optimizer.param_groups[1]["lr"] == pytest.approx(CFG.lr * min(1.0, (len(seen) + 1) / 2))
        seen.append([master.clone() for master in self.masters])
        return norm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MasterAdamW, "step", spied)
        train(ranker, averaged, tmp_path)
    expected = [torch.stack(values).mean(0) for values in zip(*seen[5:], strict=True)]
    masters = MasterAdamW(ranker, averaged).masters  # the same order of weights
    for master, wanted in zip(masters, expected, strict=True):
        torch.testing.assert_close(master, wanted, atol=1e-6, rtol=1e-5)
    resumed, again = encoder(), tmp_path / "again"
    again.mkdir()
    train(resumed, averaged, again, resume=tmp_path / "step-9")
    last = weights(tmp_path / "step-12")
    for name, weight in weights(again / "step-12").items():
        assert (weight - last[name]).abs().max() < 1e-5, name


def test_another_seed_gives_other_weights(trained: Trained) -> None:
    ranker, end = encoder(), weights(trained[1].folder / "step-12")
    train(ranker, changed(seed=1))
    assert max(float((weight - end[name]).abs().max()) for name, weight in ranker.model.state_dict().items()) > 1e-3


def test_frozen_embeddings_do_not_change_and_everything_else_does(trained: Trained) -> None:
    ranker, _, before, _ = trained
    after = ranker.model.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert "bert.embeddings.word_embeddings.weight" in same
    trainable = {name for name, weight in ranker.model.named_parameters() if weight.requires_grad}
    assert "classifier.weight" in trainable
    assert not same & trainable


def test_embeddings_train_when_they_are_not_frozen() -> None:
    ranker = encoder()
    before = ranker.model.get_input_embeddings().weight.clone()
    train(ranker, changed(freeze_embeddings=False, max_steps=2))
    after = ranker.model.get_input_embeddings().weight
    seen = set(ranker.tokenizer("this can sort a list")["input_ids"])
    assert not torch.equal(before[sorted(seen)], after[sorted(seen)])


def test_targets_that_are_no_numbers_stop_the_run_with_a_remedy() -> None:
    rows = [row | {"targets": [float("nan")] * 4} for row in ROWS]
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 0; lower lr.*check the targets"):
        train(encoder(), CFG, rows=rows)


def collapsed(ranker: Ranker) -> Ranker:
    """Return the ranker with a head that gives every document the same score."""
    torch.nn.init.zeros_(ranker.model.classifier.weight)
    torch.nn.init.constant_(ranker.model.classifier.bias, 0.25)
    return ranker


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_that_are_all_one_value_stop_the_run_at_the_next_look_at_dev(dtype: str) -> None:
    frozen = {"lr": 1e-12, "head_lr": 1e-12, "warmup_steps": 0, "dtype": dtype}
    says = r"collapsed: it gives all documents of a query one score \(0\.25\) on dev; lower lr and head_lr"
    with pytest.raises(FloatingPointError, match=says):
        train(collapsed(encoder()), changed(**frozen), dev=ROWS)
    train(encoder(), changed(**frozen | {"max_steps": 2}), dev=ROWS)  # a head drawn at random is not that


def test_without_dev_rows_a_collapse_shows_in_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rrad_ray.training.rank_task.FLAT_BATCHES", 4)
    frozen = {"lr": 1e-12, "head_lr": 1e-12, "warmup_steps": 0, "max_steps": 3}
    train(collapsed(encoder()), changed(**frozen))
    with pytest.raises(FloatingPointError, match=r"one score \(0\.25\) in the last 4 batches"):
        train(collapsed(encoder()), changed(**frozen | {"max_steps": 4}))


def test_scores_are_flat_when_no_list_has_a_difference_above_rounding() -> None:
    assert flat([[2.0, 2.0], [5.0]], torch.float32)
    assert flat([[3.0, 3.015625]], torch.bfloat16), "neighbours in bfloat16"
    assert not flat([[3.0, 3.015625]], torch.float32)
    assert not flat([[2.0, 2.0], [2.0, 1.0]], torch.bfloat16)
    assert not flat([[2.0], [3.0]], torch.float32), "lists of one document say nothing"
    assert not flat([[float("nan")] * 2], torch.float32), "that is another trouble"


def test_a_time_limit_cuts_training_short_and_leaves_the_schedule_as_it_is() -> None:
    """Another limit gives the same steps, to the last bit, as far as both go: only the end is the clock's."""
    heard = train(encoder(), changed(max_steps=400, eval_steps=2, max_seconds=0.5)).heard
    longer = train(encoder(), changed(max_steps=400, eval_steps=2, max_seconds=1.0)).heard
    last = heard[-1]
    assert (last["final"], last["ended"], last["planned_steps"]) == (1.0, "time", 400)
    assert last["seconds"] >= 0.5
    assert 0 < last["step"] < 400
    assert all(metrics["left_s"] <= 0.5 for metrics in heard)
    losses = {metrics["step"]: metrics["loss"] for metrics in heard}
    both = [metrics for metrics in longer[:-1] if metrics["step"] in losses]
    assert both
    assert all(losses[metrics["step"]] == metrics["loss"] for metrics in both)


def test_epochs_give_the_number_of_steps_when_nothing_else_does() -> None:
    heard = train(encoder(), changed(max_steps=0, epochs=1.5, eval_steps=100)).heard
    assert [metrics["step"] for metrics in heard] == [6]  # 16 rows, 4 in a step, one and a half times


def test_bfloat16_training_saves_the_float32_masters(tmp_path: Path) -> None:
    ranker = encoder()
    train(ranker, changed(dtype="bfloat16", max_steps=3), tmp_path)
    assert {weight.dtype for weight in ranker.parameters()} == {torch.bfloat16}
    saved = weights(tmp_path / "step-3")
    exact = saved["classifier.weight"]
    assert exact.dtype == torch.float32
    assert not torch.equal(exact, exact.bfloat16().float())
    torch.testing.assert_close(ranker.model.state_dict()["classifier.weight"], exact.bfloat16())


def test_a_decoder_trains_too() -> None:
    torch.manual_seed(0)
    ranker = Ranker.decoder(checkpoints.resolve(checkpoints.BUNDLED[1]), max_length=32, layers=1)
    losses = losses_by_step(ranker, changed(kind="decoder", max_steps=12, losses={"ranknet": 1.0}, dropout=0.0))
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


# ---- data ---------------------------------------------------------------------------------------------------


def ids(batches: Any) -> list[list[str]]:
    return [[row["query_id"] for row in batch] for batch in batches]


def test_the_order_of_the_data_is_the_same_for_a_seed_and_another_in_each_epoch() -> None:
    one, other = RankBatches(ROWS, CFG), RankBatches(ROWS, CFG)
    assert list(one(3)) == list(other(3))
    assert ids(one(0)) != ids(one(1))
    assert ids(one(0)) != ids(RankBatches(ROWS, changed(seed=1))(0))


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 3), st.integers(0, 5))
@hypothesis_settings(max_examples=60)
def test_shards_are_disjoint_equally_long_and_cover_all_but_a_remainder(
    count: int, size: int, world: int, epoch: int
) -> None:
    rows, cfg = [label(number) for number in range(count)], changed(queries_per_step=size)
    if count < size * world:
        with pytest.raises(ValueError, match="label more queries, lower queries_per_step"):
            RankBatches(rows, cfg, 0, world)
        return
    shards = [ids(RankBatches(rows, cfg, rank, world)(epoch)) for rank in range(world)]
    seen = [name for shard in shards for batch in shard for name in batch]
    assert len(seen) == len(set(seen)) == count - count % (size * world)
    assert {len(shard) for shard in shards} == {count // (size * world)}
    assert {len(batch) for shard in shards for batch in shard} == {size}


def test_too_few_rows_say_how_many_there_are_and_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"3 training queries do not fill a step of 4 on 2 worker\(s\); label more"):
        RankBatches(ROWS[:3], CFG, 0, 2)


def test_a_sample_keeps_the_best_documents_and_draws_the_rest_anew_in_each_epoch() -> None:
    long = label(0, documents=8)
    long["targets"] = [0.0, 5.0, 1.0, 9.0, 2.0, 3.0, -1.0, 4.0]
    by_text = dict(zip(long["texts"], long["targets"], strict=True))
    assert len(by_text) == 8
    data = RankBatches([long], changed(queries_per_step=1, docs_per_query=5, top_docs=2))
    drawn = set()
    for epoch in range(40):
        ((row,),) = data(epoch)
        assert [by_text[text] for text in row["texts"]] == row["targets"]
        assert len(set(row["texts"])) == 5
        assert row["targets"][:2] == [9.0, 5.0]
        drawn |= set(row["targets"])
    assert drawn == set(long["targets"])


def test_a_short_row_is_taken_whole() -> None:
    ((row,),) = RankBatches(ROWS[:1], changed(queries_per_step=1, docs_per_query=9, top_docs=2))(0)
    assert row == ROWS[0]


def test_collate_pads_rows_of_different_lengths() -> None:
    queries, texts, mask, targets = collate([label(0, 2), label(1, 3)])
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    assert targets.tolist() == [[-0.0, -1.0, 0.0], [-3.0, -4.0, -7.0]]
    assert texts == [*label(0, 2)["texts"], *label(1, 3)["texts"]]
    assert queries == ["question 0"] * 2 + ["question 1"] * 3


# ---- rates and the optimizer --------------------------------------------------------------------------------


def test_the_rate_rises_over_the_warm_up_and_falls_to_zero() -> None:
    assert [share_of_peak(step, 0.0, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert share_of_peak(100, 0.25, 4) == 0.75
    assert share_of_peak(100, 1.0, 4) == 0.0
    assert share_of_peak(1, 0.5, 4) == 0.25
    assert share_of_peak(0, 0.0, 0) == 1.0


def bfloat16_layer() -> nn.Linear:
    layer = nn.Linear(4, 1, bias=False).to(torch.bfloat16)
    nn.init.constant_(layer.weight, 1.0)
    return layer


def test_master_weights_accumulate_updates_that_bfloat16_alone_would_lose() -> None:
    # Near 1 the next bfloat16 numbers are 2^-8 below and 2^-7 above; Adam's step is the rate, far less than that.
    rate, steps = 1e-4, 100
    plain, mastered = bfloat16_layer(), bfloat16_layer()
    lone = torch.optim.AdamW(plain.parameters(), lr=rate, weight_decay=0.0)
    master = MasterAdamW(mastered, changed(lr=rate, weight_decay=0.0, clip=1e9))
    for _ in range(steps):
        for layer in (plain, mastered):
            layer(torch.ones(1, 4, dtype=torch.bfloat16)).sum().backward()
        lone.step()
        lone.zero_grad()
        master.step(1.0)
    assert torch.equal(plain.weight.detach().float(), torch.ones(1, 4))
    torch.testing.assert_close(master.masters[0], torch.full((1, 4), 1 - rate * steps), atol=1e-5, rtol=0)
    assert mastered.weight.dtype == torch.bfloat16
    torch.testing.assert_close(mastered.weight.float(), torch.full((1, 4), 1 - rate * steps), atol=2**-8, rtol=0)
    assert (mastered.weight < 1).all()
    assert torch.equal(master.float32_state(mastered)["weight"], master.masters[0])


def test_in_float32_it_is_adamw_with_clipping_and_its_own_rates_for_the_head() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.body, self.classifier = nn.Linear(3, 3), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.classifier(torch.tanh(self.body(x))).pow(2).sum()

    cfg = changed(lr=1e-2, head_lr=1e-1, weight_decay=0.1, clip=0.5)
    ours, plain = Net(), Net()
    groups = [
        {"params": [*plain.classifier.parameters()], "lr": 0.5 * 1e-1, "weight_decay": 0.0},
        {"params": [plain.body.weight], "lr": 0.5 * 1e-2, "weight_decay": 0.1},
        {"params": [plain.body.bias], "lr": 0.5 * 1e-2, "weight_decay": 0.0},
    ]
    reference, master = torch.optim.AdamW(groups, betas=(0.9, 0.98)), MasterAdamW(ours, cfg)
    for step in range(5):
        x = torch.full((2, 3), float(step + 1))
        ours(x).backward()
        plain(x).backward()
        norm = float(nn.utils.clip_grad_norm_(plain.parameters(), 0.5))
        assert master.step(0.5) == pytest.approx(norm, rel=1e-5)
        reference.step()
        reference.zero_grad()
    for weight, expected in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(weight, expected)
        assert weight.grad is None


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    layer = nn.Linear(2, 1)
    before = layer.weight.detach().clone()
    master = MasterAdamW(layer, CFG)
    (layer(torch.ones(1, 2)).sum() * float("inf")).backward()
    master.step(1.0)
    assert torch.equal(layer.weight.detach(), before)


def test_dev_ndcg_is_the_mean_over_rows_and_ties_keep_the_rows_own_order() -> None:
    class Flat:
        def score_pairs(self, queries: list[str], texts: list[str]) -> list[float]:
            return [0.0] * len(texts)

    rows = [label(0) | {"qrel_ids": ["d0-0"]}, label(1) | {"qrel_ids": ["d1-1"]}]
    ndcg = dev_ndcg(Flat(), rows)  # type: ignore[arg-type]
    assert ndcg == pytest.approx((1 + 0.6309297535714575) / 2)


def test_dropout_is_what_the_config_says() -> None:
    for share in (0.0, 0.25):
        ranker = encoder()
        train(ranker, changed(dropout=share, max_steps=1))
        assert {module.p for module in ranker.modules() if isinstance(module, nn.Dropout)} == {share}


def test_word_dropout_hides_words_from_training_alone_the_same_ones_for_a_seed_and_never_all() -> None:
    text = " ".join(f"word{number}" for number in range(2000))
    row = {**ROWS[0], "query": "one", "texts": [text] * len(ROWS[0]["texts"])}
    thin = changed(queries_per_step=1, word_dropout=0.25)
    (first,), (again,), (later,) = (next(RankBatches([row], thin)(epoch)) for epoch in (0, 0, 1))
    words = first["texts"][0].split()
    assert 0.7 < len(words) / 2000 < 0.8
    assert words == [word for word in text.split() if word in set(words)], "the order stays"
    assert first["texts"] == again["texts"] != later["texts"]
    assert first["texts"][0] != first["texts"][1], "each document loses words of its own"
    assert first["query"] == "one", "a text never goes whole"
    (whole,) = next(RankBatches([row], changed(queries_per_step=1))(0))
    assert set(whole["texts"]) == {text}
