"""Steps and the end of a run: gradients in parts, early stopping, and one result for a seed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rrad_ray.config import FinetuneConfig, GenerationConfig, TermsConfig, TrainConfig
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.tables import checkpoints
from rrad_ray.training import listwise, lm_task, losses, packing, weighted_loss
from rrad_ray.training.loop import fit
from rrad_ray.training.optimizer import MasterAdamW
from rrad_ray.training.rank_task import RankTask
from rrad_ray.training.task import TrainTask, TrainWorker
from tests import toys
from tests.lists import row
from tests.toys import Line, Listener, causal_lm, fitted, label

pytestmark = pytest.mark.usefixtures("one_thread")
PLAIN = TrainConfig("in", "out", max_steps=9, eval_steps=2, dtype="float32", freeze_embeddings=False)
LINES = [[1.0, 2.0, 0.5], [3.0, -1.0, 1.0], [1.0, 0.0, 1.0], [2.0, 1.0, 1.0]]
# Lists of two to five documents, and one whose documents are all alike: parts of a step weigh differently.
UNEVEN = [label(number, documents=2 + number % 4) for number in range(5)]
UNEVEN.append(label(5) | {"targets": [1.0] * 4})


def line(
    figures: list[float], cfg: TrainConfig = PLAIN, folder: Path | None = None, resume: Path | None = None
) -> Any:
    listener = Listener(folder)
    torch.manual_seed(0)
    dev = ["a row"] if figures else []
    fit(Line(figures), lambda epoch, first: [LINES] * 100, 100, cfg, TrainWorker(report=listener, resume=resume), dev)
    return listener.heard


# ---- gradients in parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec", [*losses.LOSSES, {"ranknet": {"gap_power": 1.5}}, {"listnet": {"temperature": 0.5}}], ids=str
)
def test_the_losses_of_parts_weighed_by_their_sizes_make_the_loss_of_the_whole(spec: Any) -> None:
    (name, options), *_ = spec.items() if isinstance(spec, dict) else [(spec, 1.0)]
    source = torch.Generator().manual_seed(3)
    scores = torch.randn(6, 5, generator=source, dtype=torch.float64)
    targets = torch.randint(0, 2 if name == "bce" else 4, (6, 5), generator=source).double()
    mask = torch.arange(5) < torch.tensor([5, 2, 1, 4, 3, 5])[:, None]
    targets[5] = 1.0
    loss = weighted_loss.weighted({name: options})
    parts = [slice(0, 1), slice(1, 4), slice(4, 5), slice(5, 6)]
    sizes = [losses.size(name, options, targets[part], mask[part]) for part in parts]
    assert len(set(sizes)) > 1
    whole = sum(size * loss(scores[part], targets[part], mask[part]) for size, part in zip(sizes, parts, strict=True))
    assert float(whole / sum(sizes)) == pytest.approx(float(loss(scores, targets, mask)), rel=1e-6)
    assert losses.size(name, options, targets, mask) == pytest.approx(sum(sizes))


def gradient(task: TrainTask, rows: list[Any], cfg: Any) -> tuple[Tensor, dict[str, float]]:
    """Return the gradient of a step over these rows, and the reported losses."""
    gradients: list[Tensor] = []
    listener = Listener()

    def spied(self: MasterAdamW, share: float) -> float:
        gradients.append(torch.cat([weight.grad.flatten() for weight in self.weights if weight.grad is not None]))
        task.zero_grad()
        return 0.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MasterAdamW, "step", spied)
        fit(task, lambda epoch, first: [rows], 1, dataclasses.replace(cfg, max_steps=1), TrainWorker(report=listener))
    return gradients[0], {name: value for name, value in listener.heard[-1].items() if name.startswith("loss")}


def assert_parts_make_the_step(task: TrainTask, rows: list[Any], cfg: Any, parts: int) -> dict[str, float]:
    whole, losses_of_whole = gradient(task, rows, cfg)
    halved, again = gradient(task, rows, dataclasses.replace(cfg, accumulate=parts))
    assert float(whole.norm()) > 1e-3
    torch.testing.assert_close(halved, whole, atol=1e-5 * float(whole.norm()), rtol=1e-3)
    assert again == pytest.approx(losses_of_whole, rel=1e-4)
    return losses_of_whole


def test_an_encoders_step_in_parts_is_the_step_with_several_losses_and_the_term_control_layer() -> None:
    weights = {"point_mse": 0.5, "ranknet": {"weight": 2.0, "gap_power": 1.0}, "listmle": 0.1}
    cfg = dataclasses.replace(toys.CFG, queries_per_step=6, losses=weights, terms=TermsConfig(weight=0.5))
    torch.manual_seed(7)
    ranker = Ranker.encoder(checkpoints.resolve(checkpoints.BUNDLED[0]), max_length=24, layers=1)
    reported = assert_parts_make_the_step(RankTask(ranker, cfg), UNEVEN, cfg, 4)
    names = {f"loss_{kind}_{name}" for kind in ("rank", "terms") for name in weights}
    assert set(reported) == {"loss", *names}


def test_a_decoders_step_in_parts_is_the_step_with_reasons_of_different_lengths(tmp_path: Path) -> None:
    source = causal_lm(tmp_path, ["sort a list", "irrelevant"], tied=True)
    cfg = dataclasses.replace(toys.CFG, kind="decoder", queries_per_step=6, generation=GenerationConfig(weight=0.5))
    rows = [one | {"answers": ["relevant " * (1 + index) for index in range(len(one["texts"]))]} for one in UNEVEN]
    reported = assert_parts_make_the_step(RankTask.fresh(source, cfg), rows, cfg, 3)
    assert set(reported) == {"loss", "loss_rank", "loss_tokens"}


def test_a_labellers_step_in_parts_is_the_step(tmp_path: Path) -> None:
    source = checkpoints.resolve(checkpoints.BUNDLED[1])
    cfg = FinetuneConfig(
        "in", "out", objective="order", layers=1, max_length=320, doc_tokens=8, max_tokens=24, docs_per_query=4
    )
    cfg = dataclasses.replace(cfg, rank_weight=1.0, dtype="float32", freeze_embeddings=True)
    task = lm_task.OrderTask(source, listwise.ListwiseExamples(source, cfg), cfg)
    examples = [one for n in range(4) for one in task.lists(row([1.0, 3.0, 2.0, 0.0][: 2 + n % 3], query_id=f"q{n}"))]
    packs = [examples[:2], *packing.pack_examples(examples[2:], 320), examples[1:2]]
    assert set(assert_parts_make_the_step(task, packs, cfg, 3)) == {"loss", "loss_token", "loss_rank"}


def test_more_parts_than_a_step_has_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="accumulate=9: a step has only queries_per_step queries"):
        TrainConfig("in", "out", queries_per_step=8, accumulate=9)
    with pytest.raises(ValueError, match="accumulate=5: a step has only sequences_per_step sequences"):
        FinetuneConfig("in", "out", accumulate=5)


# ---- what ends a run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "step", "why"),
    [
        ({"max_steps": 9}, 9, "steps"),
        ({"max_steps": 0, "epochs": 0.05}, 5, "epochs"),
        ({"max_steps": 0, "max_seconds": 1e-9}, 1, "time"),
        ({"patience": 2}, 8, "patience"),
        ({"patience": 3}, 9, "steps"),
    ],
)
def test_the_last_report_says_why_the_run_ended(changes: dict[str, Any], step: int, why: str) -> None:
    heard = line([0.5, 0.6, 0.6, 0.59, 0.7], dataclasses.replace(PLAIN, **changes))
    assert (heard[-1]["step"], heard[-1]["ended"], heard[-1]["final"]) == (step, why, 1.0)
    assert not any("ended" in metrics for metrics in heard[:-1])


def test_patience_goes_by_the_figure_that_checkpoints_are_compared_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Line, "higher_is_better", False)
    heard = line([9.0, 7.0, 8.0, 7.0], dataclasses.replace(PLAIN, patience=2))
    assert (heard[-1]["step"], heard[-1]["ended"]) == (8, "patience")


def test_a_resumed_run_has_not_forgotten_how_long_it_has_waited(tmp_path: Path) -> None:
    cfg = dataclasses.replace(PLAIN, patience=2, max_steps=20)
    line([0.5, 0.4, 0.3], cfg, tmp_path)
    heard = line([0.3, 0.9], cfg, resume=tmp_path / "step-4")
    assert (heard[-1]["step"], heard[-1]["ended"]) == (6, "patience")
    heard = line([0.6, 0.3, 0.5], cfg, resume=tmp_path / "step-4")
    assert (heard[-1]["step"], heard[-1]["ended"]) == (10, "patience")
    assert line([0.9], cfg, resume=tmp_path / "step-6") == [], "it had ended"


def test_patience_without_anything_to_measure_says_so() -> None:
    with pytest.raises(ValueError, match="patience=2 but there are no dev rows to measure; judge some"):
        line([], dataclasses.replace(PLAIN, patience=2))


# ---- one seed, one result -----------------------------------------------------------------------------------


def test_one_seed_gives_the_same_weights_to_the_last_bit_and_another_one_others() -> None:
    cfg = dataclasses.replace(toys.CFG, layers=2, dropout=0.1, word_dropout=0.1, max_steps=4)
    runs = []
    for seed in (0, 0, 1):
        torch.rand(3)  # what the process has drawn before does not matter
        task = RankTask.fresh(checkpoints.resolve(checkpoints.BUNDLED[0]), dataclasses.replace(cfg, seed=seed))
        head = task.model.classifier.weight.detach().clone()
        fitted(task, dataclasses.replace(cfg, seed=seed))
        runs.append((head, task.model.state_dict()))
    (first, one), (again, same), (other, _) = runs
    assert torch.equal(first, again)
    assert all(torch.equal(weight, same[name]) for name, weight in one.items())
    assert not torch.equal(first, other), "the head is drawn anew for another seed"
