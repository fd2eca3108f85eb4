"""The contract between loop and task: which parameters are a head's, and the report without Ray."""

from __future__ import annotations

import pytest

from rrad_ray.training.rank_task import RankTask
from rrad_ray.training.task import LOCAL_WORKER, in_hf_head, log_report
from tests.toys import Line


@pytest.mark.parametrize(
    ("name", "is_head"),
    [
        ("classifier.weight", True),
        ("ranker.model.classifier.bias", True),
        ("model.score.weight", True),
        ("model.classifier.out_proj.weight", True),
        ("model.classifier.dense.weight", False),
        ("bert.encoder.layer.0.output.dense.weight", False),
        ("score", False),
    ],
)
def test_a_heads_last_layer_is_known_by_hugging_faces_names(name: str, is_head: bool) -> None:
    assert in_hf_head(name) == is_head
    assert Line().is_head(name) == is_head


def test_the_rank_task_counts_its_term_control_layer_to_the_head_and_other_tasks_know_of_none() -> None:
    task = RankTask.__new__(RankTask)  # the answer depends on names alone
    for name in ("terms.gate.weight", "terms.attention.bias", "ranker.model.classifier.weight"):
        assert task.is_head(name)
    assert not task.is_head("ranker.model.bert.terms.weight")
    assert not Line().is_head("terms.gate.weight")


def test_without_ray_metrics_are_printed_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    log_report({"step": 20, "loss": 0.123456, "ended": "steps"}, None)
    assert capsys.readouterr().out == "step 20  loss 0.1235  ended steps\n"
    assert (LOCAL_WORKER.rank, LOCAL_WORKER.world_size, LOCAL_WORKER.resume) == (0, 1, None)
