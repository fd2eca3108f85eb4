"""Several orders of one query's documents into one verdict: Borda, Copeland, hard negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rrad_ray.labelling.answers import ParsedOrder

# ---- orders into targets ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What all answers about a query's `n` documents say together, in the candidates' own order.

    `targets`: higher is better. The worst ranked document has 1, a missing one 0: ties among missing documents make
    no pairs. `confidence[i]`, from 0 to 1: the share of the answers' preferences about document i that the targets
    keep (1 where one answer speaks). `statuses`: one for each answer. `rejected`: there are answers, and none says
    anything.
    """

    targets: list[float]
    missing: list[bool]
    confidence: list[float]
    statuses: list[str]

    @property
    def rejected(self) -> bool:
        return bool(self.statuses) and all(status.startswith("rejected") for status in self.statuses)


def aggregate(
    orders: Sequence[ParsedOrder],
    shown: Sequence[Sequence[int]],
    *,
    method: str = "borda",
    missing: str = "negative",
) -> Verdict:
    """One verdict from several orders of the same documents; `shown[r]` are the candidates as call r showed them.

    `borda`: a document's mean number of documents that it beats, ties at the bottom count half (Borda count over
    weak orders). `copeland`: how many documents it beats in a majority of the answers (Copeland's method): an answer
    that has gone astray moves it less. A document that most answers leave out is missing, whatever the others say.
    `missing="append"` puts documents left out behind the ranked ones, in the order shown, as RankGPT does: none is
    then missing. Rejected answers have no voice.
    """
    statuses = [order.status for order in orders]
    heard = [
        _in_candidates(order, places, missing)
        for order, places in zip(orders, shown, strict=True)
        if not order.rejected
    ]
    n = len(shown[0]) if shown else 0
    if not heard:
        return Verdict([0.0] * n, [True] * n, [0.0] * n, statuses)
    if len(heard) == 1:
        return _single(heard[0], n, statuses)
    left_out = [2 * sum(index not in ranked for ranked in heard) > len(heard) for index in range(n)]
    wins = _wins(heard, n)
    points = [_points(row, number, len(heard), method) for number, row in enumerate(wins)]
    lowest = min((point for point, gone in zip(points, left_out, strict=True) if not gone), default=0.0)
    targets = [0.0 if gone else 1.0 + point - lowest for point, gone in zip(points, left_out, strict=True)]
    return Verdict(targets, left_out, _confidence(wins, targets, len(heard)), statuses)


def _in_candidates(order: ParsedOrder, shown: Sequence[int], missing: str) -> dict[int, int]:
    """Candidate index -> place, of the ranked documents."""
    ranked = [*order.ranked, *order.missing] if missing == "append" else order.ranked
    return {shown[index]: place for place, index in enumerate(ranked)}


def _single(ranked: dict[int, int], n: int, statuses: list[str]) -> Verdict:
    targets, missing = [0.0] * n, [True] * n
    for index, place in ranked.items():
        targets[index], missing[index] = float(len(ranked) - place), False
    return Verdict(targets, missing, [1.0] * n, statuses)


def _wins(heard: Sequence[dict[int, int]], n: int) -> list[list[float]]:
    """wins[i][j]: in how many orders document i stands above j; a tie counts half."""
    wins = [[0.0] * n for _ in range(n)]
    for ranked in heard:
        places = [ranked.get(index, n) for index in range(n)]
        for i, mine in enumerate(places):
            row = wins[i]
            for j, other in enumerate(places):
                if i != j:
                    row[j] += 1.0 if mine < other else 0.5 if mine == other else 0.0
    return wins


def _points(row: Sequence[float], number: int, voices: int, method: str) -> float:
    others = [value for index, value in enumerate(row) if index != number]
    if method == "borda":
        return sum(others) / voices
    half = voices / 2
    return sum(1.0 if value > half else 0.5 if value == half else 0.0 for value in others)


def _confidence(wins: Sequence[Sequence[float]], targets: Sequence[float], voices: int) -> list[float]:
    """For each document: the mean share of the answers that order it and another one as the targets do."""
    n, found = len(targets), []
    for i in range(n):
        kept = 0.0
        for j in range(n):
            if i == j:
                continue
            share = wins[i][j] / voices
            kept += (
                share if targets[i] > targets[j] else 1 - share if targets[i] < targets[j] else 1 - abs(2 * share - 1)
            )
        found.append(kept / (n - 1) if n > 1 else 1.0)
    return found
