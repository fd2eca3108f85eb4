"""The generated answers are of every kind and can be made again, and what is wrong with an order is seen."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks import answers
from rrad_ray.labelling.answers import ParsedOrder


def test_a_number_makes_one_answer_and_none_of_many_is_read_wrong() -> None:
    generated = [answers.answer(number) for number in range(2000)]
    assert generated == [answers.answer(number) for number in range(2000)]
    assert len(set(generated)) > 1900
    assert {shown for _, shown in generated} == set(range(1, 31))
    read = Counter(answers.fault(*each) for each in generated)
    assert set(read) == {("", "ok"), ("", "repaired"), ("", "rejected")}
    assert min(read.values()) > 40, read


@pytest.mark.parametrize(
    ("ranked", "missing", "wrong"),
    [((1, 0), (), "lost"), ((0, 3), (1, 2), "invented"), ((0, 1, 0), (2,), "doubled"), ((2, 0), (1,), "")],
)
def test_an_order_that_does_not_hold_every_document_once_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, ranked: tuple[int, ...], missing: tuple[int, ...], wrong: str
) -> None:
    monkeypatch.setattr(answers, "parse_answer", lambda text, shown: ParsedOrder(ranked, missing))
    assert answers.fault("[1] > [2]", 3) == (wrong, "ok")


def test_a_parser_that_raises_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "parse_answer", lambda text, shown: [][shown])
    assert answers.fault("[1] > [2]", 3) == ("raised IndexError", "")
