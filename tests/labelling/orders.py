"""Orders for the tests of the parser of answers, as they are written and as they are read."""

from __future__ import annotations

from hypothesis import strategies as st

from rrad_ray.labelling.answers import parse_answer

orders = st.integers(3, 9).flatmap(lambda n: st.permutations(range(1, n + 1)))


def read_order(answer: str, n: int) -> list[int]:
    """The documents that an answer ranks among n, by number from 1, best first."""
    return [index + 1 for index in parse_answer(answer, n).ranked]


def listed(order: list[int]) -> str:
    """The order as a list in brackets."""
    return ", ".join(f"[{number}]" for number in order)
