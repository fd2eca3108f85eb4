"""Scores as probabilities: a slope and an offset for them, fitted on dev, and what they are worth on other queries.

Platt scaling (Platt, 1999): the probability that a document is relevant is the sigmoid of `slope * score + offset`.
A document is relevant if its grade is above 0; one that nobody has judged is not, as in nDCG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from rrad_ray.errors import InvalidInput
from rrad_ray.evaluation.fusion import unscored_last

LEAST = 10  # relevant documents, and others, among those of dev

BINS = 10  # of the expected calibration error, of equal width (Guo et al., 2017)

_REMEDY = "judge more queries of dev, or set calibrate=false"


class Verdicts(TypedDict):
    """Precision and recall of yes-or-no answers; None where nothing was answered with yes, or should have been."""

    precision: float | None
    recall: float | None


class Calibration(TypedDict):
    """A system's slope and offset, from dev, and how its probabilities do on the reported split.

    `ece_before` and `ece_after`: the expected calibration error of the sigmoids of its scores as they are, and of
    the calibrated ones. `threshold`: the probability from which on documents are called relevant, with the best F1 on
    dev, and `relevant` these verdicts. `nothing`: the verdict, by the same threshold, that a query has no relevant
    document among its candidates.
    """

    slope: float
    offset: float
    ece_before: float
    ece_after: float
    threshold: float
    relevant: Verdicts
    nothing: Verdicts


_Rows = Sequence[Mapping[str, Any]]  # with qrels

_Scores = Sequence[Sequence[float]]  # of each row's documents


def calibrated(dev: _Rows, dev_scores: _Scores, test: _Rows, test_scores: _Scores) -> dict[str, Any]:
    """Return a system's entries for the report: `calibration`, or in `uncalibrated` why it has none; nothing without
    dev. A document without a score counts as below all others."""
    if not dev:
        return {}
    whole = [[unscored_last(values) for values in scores] for scores in (dev_scores, test_scores)]
    try:
        return {"calibration": calibration(dev, whole[0], test, whole[1])}
    except InvalidInput as error:
        return {"uncalibrated": error.problem}


def calibrated_by_lists(lists: Sequence[_Rows], scores: Sequence[_Scores]) -> dict[str, Any]:
    """Return what `calibrated` does. `lists`: test and dev, then the queries of each that were judged in vain."""
    test, dev, test_scores, dev_scores = (
        [*each[which], *each[which + 2]] for each in (lists, scores) for which in range(2)
    )
    return calibrated(dev, dev_scores, test, test_scores) if lists[1] else {}


def calibration(dev: _Rows, dev_scores: _Scores, test: _Rows, test_scores: _Scores) -> Calibration:
    """Return the calibration of a system by its scores on dev, measured on test.

    Raises `ValueError` for fewer than `LEAST` relevant documents or others on dev, and for a slope that would turn
    the order round.
    """
    from scipy.special import expit

    known, fitted = np.concatenate(_relevance(dev)), np.concatenate([*map(np.asarray, dev_scores)])
    slope, offset = platt(fitted, known)
    threshold = _best_threshold(expit(slope * fitted + offset), known)
    relevant, scores = _relevance(test), [np.asarray(values, dtype=float) for values in test_scores]
    shown = [expit(slope * values + offset) for values in scores]
    truth, probabilities = np.concatenate(relevant), np.concatenate(shown)
    return Calibration(
        slope=slope,
        offset=offset,
        ece_before=expected_error(expit(np.concatenate(scores)), truth),
        ece_after=expected_error(probabilities, truth),
        threshold=threshold,
        relevant=_verdicts(probabilities >= threshold, truth),
        nothing=_verdicts(
            np.asarray([not (values >= threshold).any() for values in shown]),
            np.asarray([not values.any() for values in relevant]),
        ),
    )


def _relevance(rows: _Rows) -> list[np.ndarray]:
    """Return for each row which of its documents are relevant, (N,)."""
    known = [dict(zip(row["qrel_ids"], row["qrel_grades"], strict=True)) for row in rows]
    return [np.asarray([grades.get(doc, 0) > 0 for doc in row["doc_ids"]], bool) for row, grades in zip(rows, known)]


def platt(scores_P: np.ndarray, relevant_P: np.ndarray) -> tuple[float, float]:
    """Return the slope and the offset of the most likely probabilities of P pairs.

    Platt's targets, just inside of 0 and 1, keep both finite where scores part the classes. Raises `ValueError` as
    `calibration` does.
    """
    from scipy.optimize import minimize  # scipy takes 30 MiB, and a replica imports this file for its types alone
    from scipy.special import expit

    yes, no = int(relevant_P.sum()), int((~relevant_P).sum())
    if min(yes, no) < LEAST:
        raise InvalidInput(
            f"dev has {yes} relevant candidates and {no} others, and {LEAST} of each are needed", _REMEDY
        )
    targets = np.where(relevant_P, (yes + 1) / (yes + 2), 1 / (no + 2))
    mean, spread = scores_P.mean(), scores_P.std() or 1.0
    units = (scores_P - mean) / spread

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        logits = values[0] * units + values[1]
        errors = expit(logits) - targets
        gradient = np.array([errors @ units, errors.sum()]) / len(units)
        return float((np.logaddexp(0, logits) - targets * logits).mean()), gradient

    slope, offset = minimize(loss, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    if slope <= 1e-6:
        raise InvalidInput("on dev a higher score does not mean more relevant: its order would turn round", _REMEDY)
    return float(slope / spread), float(offset - slope * mean / spread)


def expected_error(probabilities_P: np.ndarray, relevant_P: np.ndarray) -> float:
    """Return the expected calibration error: the mean gap of probability and share of relevant ones, over bins."""
    bins = np.minimum((probabilities_P * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, probabilities_P - relevant_P, BINS)
    return float(np.abs(gaps).sum() / len(probabilities_P))


def _best_threshold(probabilities_P: np.ndarray, relevant_P: np.ndarray) -> float:
    """Return the probability of a pair at which calling it and all higher ones relevant has the best F1."""
    order = np.argsort(-probabilities_P, kind="stable")
    hits, called = np.cumsum(relevant_P[order]), np.arange(1, len(order) + 1)
    last = np.append(np.diff(probabilities_P[order]) < 0, True)  # equal ones are called together
    f1 = np.where(last, 2 * hits / (called + relevant_P.sum()), 0.0)
    return float(probabilities_P[order][int(np.argmax(f1))])


def _verdicts(said: np.ndarray, true: np.ndarray) -> Verdicts:
    right = int((said & true).sum())
    return Verdicts(
        precision=right / int(said.sum()) if said.any() else None,
        recall=right / int(true.sum()) if true.any() else None,
    )
