"""A decoder student with low-rank adapters: what is trained, and that it is saved as any other student."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rrad_ray.config import GenerationConfig
from rrad_ray.rankers.generation import Explainer
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.training.rank_task import RankTask
from tests import toys
from tests.toys import causal_lm, fitted

pytestmark = pytest.mark.usefixtures("one_thread")
CFG = dataclasses.replace(
    toys.CFG,
    kind="decoder",
    max_length=48,
    max_steps=20,
    eval_steps=20,
    lr=5e-3,
    losses={"margin": {"weight": 1.0, "tau": 0.5}},
    lora_rank=4,
)
ROWS = [row | {"missing": [False] * 4, "reasons": []} for row in toys.ROWS]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return causal_lm(tmp_path_factory.mktemp("source"), [text for row in ROWS for text in row["texts"]], tied=True)


@pytest.fixture(scope="module", params=[0.0, 0.5], ids=["ranks", "ranks and writes"])
def learned(
    request: pytest.FixtureRequest, source: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RankTask, dict[str, torch.Tensor], list[float], Path]:
    """A trained task, its weights before, what was heard of its rank loss, and its checkpoint."""
    cfg = dataclasses.replace(CFG, generation=GenerationConfig(weight=request.param, max_tokens=8))
    torch.manual_seed(0)
    task, folder = RankTask.fresh(source, cfg), tmp_path_factory.mktemp("learned")
    before = {name: weight.detach().clone() for name, weight in task.named_parameters()}
    listener = fitted(task, cfg, folder, rows=ROWS)
    losses = [told.get("loss_rank", told["loss"]) for told in listener.heard]
    return task.eval(), before, losses, folder / "step-20"


def test_adapters_and_the_whole_ranking_layer_are_trained_and_nothing_else(
    learned: tuple[RankTask, dict[str, torch.Tensor], list[float], Path],
) -> None:
    task, before, _, _ = learned
    changed = {name for name, weight in task.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if ".lora_" in name or name.endswith("score.weight")}
    layers = {name.split(".lora_")[0].rpartition("layers.")[2] for name in changed if ".lora_" in name}
    assert len(layers) == 2 * 7, "four of attention and three of the MLP, in each of two layers"


def test_the_student_is_saved_merged_as_a_plain_ranker_with_the_same_scores(
    learned: tuple[RankTask, dict[str, torch.Tensor], list[float], Path],
) -> None:
    task, _, _, folder = learned
    _, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    query, texts = ROWS[0]["query"], ROWS[0]["texts"]
    scores = task.ranker.score(query, texts)
    assert max(scores) - min(scores) > 0.1
    assert Ranker.load(str(folder), dtype="float32").score(query, texts) == pytest.approx(scores, abs=1e-4)
    assert any(".lora_" in name for name in task.state_dict()), "training goes on with them"
    if task.cfg.generation.weight:
        assert isinstance(Explainer.load(str(folder)).explain(query, texts[0], max_tokens=3), str)


def test_a_run_gone_on_with_ends_where_an_undisturbed_one_does(source: str, tmp_path: Path) -> None:
    cfg = dataclasses.replace(CFG, max_steps=6, eval_steps=3)
    whole, again = RankTask.fresh(source, cfg), RankTask.fresh(source, cfg)
    for name in ("whole", "again"):
        (tmp_path / name).mkdir()
    fitted(whole, cfg, tmp_path / "whole", rows=ROWS)
    fitted(again, cfg, tmp_path / "again", rows=ROWS, resume=tmp_path / "whole" / "step-3")
    ended = dict(again.named_parameters())
    for name, weight in whole.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(ended[name], weight, rtol=0, atol=1e-6, msg=name)


def test_adapters_are_of_decoders() -> None:
    with pytest.raises(ValueError, match=r"lora_rank=4: only for kind=decoder"):
        dataclasses.replace(CFG, kind="encoder")
