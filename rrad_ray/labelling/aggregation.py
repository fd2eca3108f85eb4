"""Aggregate several orders of one query's documents into one verdict: Borda, Copeland, hard negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rrad_ray.labelling.answers import ParsedOrder


@dataclass(frozen=True)
class Verdict:
    """The aggregate of all answers about a query's `n` documents; lists are in the candidates' own order.

    `targets`: higher is better. The worst ranked document has 1, a missing one 0: ties among missing documents make
    no pairs. `confidence[i]`, from 0 to 1: the share of the answers' preferences about document i that the targets
    keep (1 where there is one usable answer). `statuses`: one for each answer. `rejected`: there are answers, and all
    of them are rejected.
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
    """Aggregate several orders of the same documents; `shown[r]` holds the candidates' indices as call r showed them.

    `borda` scores a document by the number of documents that it beats, averaged over the answers; ties at the bottom
    count half (Borda count over weak orders). `copeland` scores it by the number of documents that it beats in a
    majority of the answers (Copeland's method), which a single stray answer moves less. A document that most answers
    leave out is missing, whatever the others say. `missing="append"` puts documents left out behind the ranked ones,
    in the order shown, as RankGPT does: none is then missing. Rejected answers are not counted.
    """
    statuses = [order.status for order in orders]
    rankings = [
        _candidate_ranks(order, shown_once, missing)
        for order, shown_once in zip(orders, shown, strict=True)
        if not order.rejected
    ]
    n = len(shown[0]) if shown else 0
    if not rankings:
        return Verdict([0.0] * n, [True] * n, [0.0] * n, statuses)
    if len(rankings) == 1:
        return _single(rankings[0], n, statuses)
    left_out = [2 * sum(index not in ranks for ranks in rankings) > len(rankings) for index in range(n)]
    wins = _wins(rankings, n)
    points = [_points(row, number, len(rankings), method) for number, row in enumerate(wins)]
    lowest = min((point for point, gone in zip(points, left_out, strict=True) if not gone), default=0.0)
    targets = [0.0 if gone else 1.0 + point - lowest for point, gone in zip(points, left_out, strict=True)]
    return Verdict(targets, left_out, _confidence(wins, targets, len(rankings)), statuses)


def _candidate_ranks(order: ParsedOrder, shown: Sequence[int], missing: str) -> dict[int, int]:
    """Return the 0-based rank of each ranked document, by candidate index."""
    ranked = [*order.ranked, *order.missing] if missing == "append" else order.ranked
    return {shown[index]: rank for rank, index in enumerate(ranked)}


def _single(ranks: dict[int, int], n: int, statuses: list[str]) -> Verdict:
    """Return the verdict of a single usable answer: its order, with full confidence."""
    targets, missing = [0.0] * n, [True] * n
    for index, rank in ranks.items():
        targets[index], missing[index] = float(len(ranks) - rank), False
    return Verdict(targets, missing, [1.0] * n, statuses)


def _wins(rankings: Sequence[dict[int, int]], n: int) -> list[list[float]]:
    """Return the pairwise wins, (n, n): in how many answers document i is ranked above j; a tie counts half.

    Documents that an answer leaves out are tied below its ranked ones.
    """
    wins = [[0.0] * n for _ in range(n)]
    for ranking in rankings:
        ranks = [ranking.get(index, n) for index in range(n)]
        for i, rank in enumerate(ranks):
            row = wins[i]
            for j, other in enumerate(ranks):
                if i != j:
                    row[j] += 1.0 if rank < other else 0.5 if rank == other else 0.0
    return wins


def _points(row: Sequence[float], number: int, num_answers: int, method: str) -> float:
    """Return the Borda or Copeland points of document `number` from its row of pairwise wins."""
    others = [value for index, value in enumerate(row) if index != number]
    if method == "borda":
        return sum(others) / num_answers
    half = num_answers / 2
    return sum(1.0 if value > half else 0.5 if value == half else 0.0 for value in others)


def _confidence(wins: Sequence[Sequence[float]], targets: Sequence[float], num_answers: int) -> list[float]:
    """Return each document's confidence, (n,): see `Verdict`.

    For each pair of documents: the share of answers that order the two as the targets do. Of documents whose targets
    are tied: 1 where the answers are evenly split, 0 where they agree. A document's confidence is the mean over its
    pairs.
    """
    n, confidence = len(targets), []
    for i in range(n):
        kept = 0.0
        for j in range(n):
            if i == j:
                continue
            share = wins[i][j] / num_answers
            kept += (
                share if targets[i] > targets[j] else 1 - share if targets[i] < targets[j] else 1 - abs(2 * share - 1)
            )
        confidence.append(kept / (n - 1) if n > 1 else 1.0)
    return confidence
