"""The benchmark's rankings, in forms that models write: hardly one is read as another order than it means."""

from __future__ import annotations

from collections import Counter

from benchmarks.answer_forms import ranking
from rrad_ray.labelling.answers import parse_answer


def test_of_two_thousand_rankings_most_are_read_and_hardly_one_is_misread() -> None:
    kinds = Counter[str]()
    for number in range(2000):
        given = ranking(number)
        order = parse_answer(given.text, given.shown)
        right = [index + 1 for index in order.ranked] == given.order
        kinds["rejected" if order.rejected else "right" if right else "wrong"] += 1
    assert kinds["wrong"] <= 2, kinds
    assert kinds["right"] >= 1400, kinds
