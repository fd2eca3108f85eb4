"""publish: a night's student takes the place of the published winner, if it is better; the history says why.

All that is written below the store is the same when a killed run is repeated: the night's queries and its entry go by
its name, and the winner comes last. The endpoint that serves from the store checks it before it takes it over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from rrad_ray import tables
from rrad_ray.config import LAST_STUDENT, NEW_STUDENT, PublishConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation import nights
from rrad_ray.evaluation.bench import fused_name
from rrad_ray.evaluation.calibrated_winner import calibrated_winner
from rrad_ray.evaluation.night_history import ASKED, NIGHTS_PAGE, check_new_night, record_night
from rrad_ray.evaluation.summary import ReportContent
from rrad_ray.evaluation.winner import (
    Winner,
    choose_winner,
    read_report,
    read_winner,
    why_uncalibrated,
    write_winner,
)
from rrad_ray.progress import say
from rrad_ray.rows import Candidates, CollectedQuery, Row
from rrad_ray.tables import checkpoints
from rrad_ray.tables.leases import Lease

REPORT = "report.html"  # of an evaluation
INPUTS = ("input", "fresh_input", "frozen", "fresh", "labels", "collected")


@tables.stage("publish", None, lambda cfg: {name: getattr(cfg, name) for name in INPUTS})
def run(cfg: PublishConfig, out: tables.Output) -> None:
    """Compare the night's student with the winner that the night began from, on both sets; write the history, and the
    new winner where it is better. It is calibrated where the winner that the night began from is: clients read
    probabilities.

    Raises `RradError` for an evaluation without one of the students or of others, for candidates that are not those
    which it has measured, for a winner that sums sources which the candidates lack, for a student that gave a score
    that is not a number, and for the name of another night.
    """
    last, content = read_winner(tables.join(cfg.collected, LAST_STUDENT)), read_report(cfg.input)
    chosen, lineage = _chosen(cfg, content), tables.Lineage()
    check_new_night(cfg.store, cfg.night, tables.join(cfg.input, REPORT), last.system)
    _check_students(cfg, last)
    fresh = nights.read_scores(cfg.fresh_input)
    sets = {
        "frozen": _compared(cfg.input, nights.read_scores(cfg.input), cfg.frozen, last, chosen),
        "fresh": _compared(cfg.fresh_input, fresh, cfg.fresh, last, chosen),
    }
    published, reason = _decided(nights.decide(sets, cfg.max_p), chosen, content, bool(last.calibration))
    if published and last.calibration:
        lineage = checkpoints.with_training(lineage, chosen.checkpoint)
        chosen = calibrated_winner(chosen, content, cfg, "let the night begin from a student that can be calibrated")
    winner = dataclasses.replace(_named(chosen, cfg.night), finding=reason)
    asked = [row["query"] for row in tables.read(cfg.collected, CollectedQuery)]
    drift = _drift(cfg, asked, fresh)
    with Lease(cfg.store, "publish"):
        current = read_winner(cfg.store)
        if published and current not in (last, winner):
            published, reason = False, f"{current.system} was published after the night had begun; {reason}"
        with tables.writing(tables.join(cfg.store, ASKED, f"{cfg.night}.parquet")) as file:
            pq.write_table(pa.table({"query": asked}), file)
        decision = "published" if published else "refused"
        facts = {"system": winner.system, "checkpoint": winner.checkpoint, "last": last.system, "queries": len(asked)}
        facts |= {"report": tables.join(cfg.input, REPORT), "sets": sets, "drift": drift}
        record_night(cfg.store, cfg.night, decision, reason, **facts)
        if published:
            write_winner(cfg.store, winner)
    say(f"{decision}: {reason}")
    say(f"history: {tables.join(cfg.store, NIGHTS_PAGE)}")
    out.commit(lineage=lineage, published=published, reason=reason, sets=sets)


def _chosen(cfg: PublishConfig, content: ReportContent) -> Winner:
    """Return the winner that `select` would choose on the frozen set, were there no student but the night's."""
    lineage = tables.read_manifest(cfg.input).lineage
    students = lineage.evaluation.students if lineage.evaluation else {}
    if NEW_STUDENT not in students:
        problem = f"no evaluation of a student '{NEW_STUDENT}'"
        raise RradError(cfg.input, problem, f"run evaluate with students.{NEW_STUDENT}=...")
    encoders = lineage.first_stage.encoders if lineage.first_stage else {}
    return choose_winner(content, {NEW_STUDENT: students[NEW_STUDENT]}, cfg, encoders)


def _decided(verdict: tuple[bool, str], winner: Winner, content: ReportContent, calibrated: bool) -> tuple[bool, str]:
    """Return whether a winner is published and why, given the verdict by its figures: a first stage never is, nor,
    where the winner before it is `calibrated`, one without a calibration in the report."""
    if not winner.student:
        return False, f"{winner.system} wins on the frozen set: {winner.reason}"
    systems = (winner.system, winner.student) if verdict[0] and calibrated else ()
    why = next(filter(None, (why_uncalibrated(content, system) for system in systems)), "")
    return (False, f"the published winner's scores are probabilities, and {why}") if why else verdict


def _check_students(cfg: PublishConfig, last: Winner) -> None:
    """Raise `RradError` where the two evaluations measured different students of one name, or as `last` another one
    than the winner that the night began from."""
    measured = [
        each.students if (each := tables.read_manifest(uri).lineage.evaluation) else {}
        for uri in (cfg.input, cfg.fresh_input)
    ]
    for name in (NEW_STUDENT, LAST_STUDENT):
        frozen, fresh = (_checkpoint(students.get(name, "")) for students in measured)
        if frozen != fresh and frozen and fresh:
            problem = f"its student '{name}' is {fresh}, and {frozen} in {cfg.input}"
            raise RradError(cfg.fresh_input, problem, "measure the same students on both sets")
        if name == LAST_STUDENT and last.student and frozen and frozen != _checkpoint(last.checkpoint):
            problem = f"its student '{name}' is {frozen}, and the night began from {last.checkpoint}"
            raise RradError(cfg.input, problem, f"run evaluate with students.{name}={cfg.collected}/{LAST_STUDENT}")


def _checkpoint(model: str) -> str:
    """Return the place of a student's checkpoint, however it is written; empty for none."""
    return tables.absolute(checkpoints.student_of(model)).rstrip("/").removesuffix("/model") if model else ""


def _compared(
    uri: str, scores: nights.ScoresOfSystems, candidates: str, last: Winner, new: Winner
) -> nights.Comparison:
    """Compare two winners on the queries of an evaluation at `uri`."""
    of_last, of_new = scores.get(LAST_STUDENT, {}), scores.get(NEW_STUDENT, {})
    for name, winner, own in ((LAST_STUDENT, last, of_last), (NEW_STUDENT, new, of_new)):
        if winner.student and not own:
            raise RradError(uri, f"no scores of a student '{name}'", f"run evaluate with students.{name}=...")
    rows = nights.judged_rows(candidates, of_new)
    for scored in filter(None, (of_new, of_last)):
        _check_measured(candidates, uri, rows, scored)
    return nights.compare_ndcg(nights.served_ndcg(last, rows, of_last), nights.served_ndcg(new, rows, of_new))


def _check_measured(
    candidates: str, uri: str, rows: Sequence[Row], scored: Mapping[str, Mapping[str, float]]
) -> None:
    """Raise `RradError` unless an evaluation at `uri` measured these rows, all of them and no other documents."""
    remedy, documents = "name the candidates that it measured", {row["query_id"]: {*row["doc_ids"]} for row in rows}
    if lacking := sorted({*scored} - {*documents}):
        problem = f"lacks {len(lacking):,} of the {len(scored):,} queries of {uri}, as {lacking[0]!r}"
        raise RradError(candidates, problem, remedy)
    other = next((query_id for query_id in documents if documents[query_id] != {*scored.get(query_id, ())}), None)
    if other is not None:
        raise RradError(candidates, f"query {other!r} has other documents than in {uri}", remedy)


def _named(winner: Winner, night: str) -> Winner:
    """Return a winner whose student has the night's name: pages of results then say which night's they are.

    Raises `RradError` for the name of a source that it sums."""
    if not winner.student:
        return winner
    if night != winner.student and night in winner.weights:
        raise RradError(f"night={night}", "the winner sums a source of that name", "take another name")
    weights = {night if name == winner.student else name: weight for name, weight in winner.weights.items()}
    return dataclasses.replace(winner, system=fused_name(night) if weights else night, student=night, weights=weights)


def _drift(cfg: PublishConfig, asked: list[str], fresh: nights.ScoresOfSystems) -> dict[str, float]:
    labels = tables.read_manifest(cfg.labels).lineage.labels
    quality = labels.label_quality if labels else {}
    figures = nights.drift_figures(asked, tables.read(cfg.fresh, Candidates), quality)
    return figures | (nights.score_figures(fresh[LAST_STUDENT]) if LAST_STUDENT in fresh else {})
