"""The model that an endpoint serves: its checkpoint, what is no ranker, and whether its scores still hold."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rrad_ray.errors import RradError
from rrad_ray.serving.winners import TOLERANCE, ScoreMismatch, ServedModel, check_scores, find_winner, local_folder
from tests.winners import write as write_winner

SMOKE = {"query": "q", "documents": ["a", "b", "c"], "scores": [4.0, -2.0, 0.5]}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder that looks like a ranker, as far as it is looked at without loading it."""
    return ranker(tmp_path / "tiny")


def ranker(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    content = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}, **changes}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def test_a_checkpoint_is_served_under_its_folders_name(checkpoint: Path) -> None:
    for uri in (str(checkpoint), f"{checkpoint}/"):
        model = find_winner(uri)
        assert (model.name, dict(model.smoke)) == ("tiny", {})
        assert Path(local_folder(model)) == checkpoint


def test_a_winner_is_served_under_its_own_name_and_brings_its_scores(checkpoint: Path, tmp_path: Path) -> None:
    write_winner(tmp_path / "winner", "student", checkpoint, SMOKE)
    model = find_winner(str(tmp_path / "winner"))
    assert (model.checkpoint, model.name, model.smoke) == (str(checkpoint), "student", SMOKE)


def test_another_winner_has_another_fingerprint_and_the_same_one_has_the_same(
    checkpoint: Path, tmp_path: Path
) -> None:
    uri = str(tmp_path / "winner")
    fingerprints = []
    for system in ("one", "two", "one"):
        write_winner(tmp_path / "winner", system, checkpoint, SMOKE)
        fingerprints.append(find_winner(uri).fingerprint)
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]


def test_a_relative_checkpoint_is_found_from_the_root_and_made_absolute(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_winner(tmp_path / "winner", "student", "tiny", {})
    monkeypatch.chdir(elsewhere)
    assert find_winner(str(tmp_path / "winner"), str(tmp_path)).checkpoint == str(checkpoint)
    monkeypatch.chdir(tmp_path)
    model = find_winner("winner")
    assert model.checkpoint == os.path.realpath(checkpoint)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"architectures": ["BertModel"]}, "no ranker with one score: BertModel"),
        ({"architectures": None}, "no ranker with one score: nothing"),
        ({"id2label": {"0": "no", "1": "yes"}}, "no ranker with one score: BertForSequenceClassification"),
    ],
)
def test_a_checkpoint_without_a_head_of_one_output_is_refused(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(RradError, match=problem):
        find_winner(str(ranker(tmp_path / "other", **changes)))


def test_an_encoder_without_a_head_is_no_ranker() -> None:
    with pytest.raises(RradError, match="no ranker with one score"):
        find_winner("bundled:all-minilm-l6-v2")


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RradError, match=r"no winner\.json and no checkpoint there"):
        find_winner(str(tmp_path))


def scorer(scores: list[float]) -> Any:
    def score(query: str, documents: Sequence[str]) -> list[float]:
        assert (query, documents) == (SMOKE["query"], SMOKE["documents"])
        return scores

    return score


def test_scores_may_differ_by_the_tolerance_and_no_more() -> None:
    model, allowed = ServedModel("folder", "student", "", SMOKE), TOLERANCE * 4.0
    check_scores(model, scorer([4.0, -2.0, 0.5 + 0.99 * allowed]))
    for scores in ([4.0, -2.0, 0.5 + 1.01 * allowed], [4.0, float("nan"), 0.5], [4.0, -2.0, float("inf")]):
        with pytest.raises(
            ScoreMismatch, match=r"folder: 'student' scores \[.*\], and \[4.0, -2.0, 0.5\] when it won"
        ):
            check_scores(model, scorer(scores))
    with pytest.raises(ValueError, match="longer"):
        check_scores(model, scorer([4.0, -2.0]))


def test_a_checkpoint_that_nobody_has_chosen_has_no_scores_to_hold() -> None:
    check_scores(ServedModel("folder", "student", ""), scorer([]))
