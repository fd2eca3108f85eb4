"""The model that an endpoint serves: its checkpoint, what is no ranker, and whether its scores still hold."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rrad_ray.errors import RradError
from rrad_ray.serving.winners import (
    TOLERANCE,
    ScoreMismatch,
    ServedModel,
    check_needs,
    check_scores,
    find_winner,
    local_folder,
)
from rrad_ray.tables import checkpoints
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


def winner_of(folder: Path, student: str, checkpoint: Path | str, *sources: str, encoders: Any = None) -> ServedModel:
    """Return a served winner that sums these sources, and the student if there is one."""
    weights = dict.fromkeys([*sources, student] if student else sources, 1.0)
    fields = {"system": "best", "student": student, "checkpoint": str(checkpoint), "weights": weights}
    (folder / "winner.json").write_text(json.dumps({**fields, "encoders": encoders or {}}))
    return find_winner(str(folder))


def test_a_first_stage_needs_no_checkpoint_and_its_bi_encoder_is_looked_up_from_the_root(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    winner_of(tmp_path, "", "", "dense", encoders={"dense": {"model": "encoder", "max_length": 64}})
    model = find_winner(str(tmp_path), str(tmp_path))
    assert (model.checkpoint, model.name, model.student, model.weights) == ("", "best", "", {"dense": 1.0})
    assert model.encoders == {"dense": {"model": f"{tmp_path}/encoder", "max_length": 64}}


def test_serve_says_which_scores_requests_must_bring_or_refuses_what_it_cannot_serve(
    checkpoint: Path, tmp_path: Path
) -> None:
    encoders = {"dense": {"model": "bundled:all-minilm-l6-v2", "max_length": 64}}
    fused = winner_of(tmp_path, "tiny", checkpoint, "bm25", "dense", encoders=encoders)
    said = check_needs(fused, searched=False)
    assert "requests bring scores of bm25 in `first_stage`; others are ranked by its student 'tiny' alone" in said
    first = winner_of(tmp_path, "", "", "bm25", "dense", encoders=encoders)
    said = check_needs(first, searched=True)
    assert "requests bring scores of bm25 in `first_stage`; others are refused; for a student run select with" in said
    assert "bm25, dense" in check_needs(winner_of(tmp_path, "", "", "bm25", "dense"), searched=False)
    for nothing in (winner_of(tmp_path, "", "", "dense", encoders=encoders), find_winner(str(checkpoint))):
        assert check_needs(nothing, searched=True) == ""
    own = winner_of(tmp_path, "", "", "bm25", "ours")
    with pytest.raises(RradError, match=r"a search has no scores of ours; leave search out .* allow_worse=true"):
        check_needs(own, searched=True)
    assert "bm25, ours" in check_needs(own, searched=False)
    check_needs(winner_of(tmp_path, "tiny", checkpoint, "ours"), searched=True)


def test_a_winner_from_before_the_first_stage_could_win_is_refused_with_a_remedy(
    checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "winner.json").write_text(json.dumps({"system": "tiny", "checkpoint": str(checkpoint)}))
    with pytest.raises(RradError, match=r"holds no winner: .*; run select again"):
        find_winner(str(tmp_path))


def test_a_winners_file_that_would_fill_the_memory_of_an_endpoint_is_not_read(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_winner(tmp_path / "winner", "one", checkpoint, SMOKE)
    size = (tmp_path / "winner" / "winner.json").stat().st_size
    monkeypatch.setattr(checkpoints, "MOST_WINNER_BYTES", size)
    assert find_winner(str(tmp_path / "winner")).name == "one"
    monkeypatch.setattr(checkpoints, "MOST_WINNER_BYTES", size - 1)
    with pytest.raises(RradError, match=rf"winner\.json: has more than {size - 1:,} bytes"):
        find_winner(str(tmp_path / "winner"))


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
