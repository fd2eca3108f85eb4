"""The benchmark's rankings, in forms that models write: hardly one is read as another order than it means."""

from __future__ import annotations

from benchmarks.answers import CHUNK, rankings_read


def test_of_two_thousand_rankings_most_are_read_and_hardly_one_is_misread() -> None:
    kinds, _ = rankings_read(0)
    assert sum(kinds.values()) == CHUNK == 2000
    assert kinds["wrong"] <= 2, kinds
    assert kinds["right"] >= 1400, kinds
