"""The check before labels are paid for: does the labeller beat shuffled input and the first stage on dev?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rrad_ray import tables
from rrad_ray.config import JudgeConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation import statistics
from rrad_ray.labelling import teacher
from rrad_ray.labelling.answer_patterns import answer_reader
from rrad_ray.progress import say
from rrad_ray.rows import JUDGE, JudgeOutput, Row, with_qrels

LEAST_QUERIES = 2  # of a test of significance


class Gate:
    """The check of a labeller: it reads the dev parts as they are done, and stops the run if the labeller is not
    worth its labels."""

    def __init__(self, cfg: JudgeConfig, out: tables.Output, dev: list[str]) -> None:
        self.cfg, self.out, self.waiting, self.dev = cfg, out, set(dev), dev
        self.against = cfg.gate.against
        self.facts: dict[str, Any] = {}

    def look_ahead(self, rows: Iterable[Row]) -> None:
        """Choose what the labeller is compared with from the rows of the input's dev shards, before any is asked.

        Raises `RradError` for a source that the judged queries do not all have, where the check may stop the run. An
        input without sources has the order that it is given in.
        """
        judged = _judged(list(rows))
        have = teacher.common_sources(judged)
        if self._too_few(judged) or self.against in (*have, teacher.GIVEN):
            return
        if any(row["sources"] for row in judged) and self.cfg.gate.enabled:
            shown = ", ".join(have) or "the queries have none in common"
            problem = f"'{self.against}' is not among the sources ({shown})"
            raise RradError("gate.against", problem, f"choose one, or {teacher.GIVEN}: the order of the input")
        self.against = teacher.GIVEN

    def _too_few(self, judged: Sequence[Row]) -> bool:
        """Return whether there is nothing to compare: two queries are the least that a test takes."""
        return len(judged) < max(LEAST_QUERIES, self.cfg.gate.min_queries)

    def look(self, done: list[str]) -> None:
        """Raise `RradError` once all dev parts are done, unless the labeller beats both its shuffled input and the
        first stage."""
        self.waiting -= set(done)
        if self.waiting or self.facts or not self.dev:
            return
        self.look_at({})

    def look_at(self, unwritten: Mapping[str, Sequence[Row]]) -> None:
        """Raise `RradError` unless the labeller beats both its shuffled input and the first stage.

        `unwritten`: labelled dev queries of the parts that are not there to be read.
        """
        judged = []
        for name in self.dev:
            rows = unwritten[name] if name in unwritten else tables.read_part(self.out.uri, name, JudgeOutput)
            judged += _judged(list(rows))
        if self._too_few(judged):
            say(f"only {len(judged)} judged dev queries: the labeller is not checked")
            self.facts = {"queries": len(judged), "checked": False}
            return
        self.facts = teacher.teacher_quality(
            judged, given=self.against == teacher.GIVEN, read=answer_reader(self.cfg.answer_regex)
        )
        passed, text = gate(self.facts, self.against, self.cfg.gate.max_p)
        note = tables.lineage_of(self.cfg.input).qrels_note
        say(f"check: {text}" + (f"; {note}" if note else ""))
        self.facts |= {"checked": True, "passed": passed}
        if not passed and self.cfg.gate.enabled:
            remedy = "use a better model, template or task; or set gate.enabled=false to label all the same"
            raise RradError(self.cfg.model, text, remedy)


def _judged(rows: Sequence[Row]) -> list[Row]:
    """Return the judged dev queries whose documents can be ordered in several ways."""
    return [row for row in with_qrels(rows) if len(row["doc_ids"]) > 1]


def gate(facts: Mapping[str, Any], against: str, max_p: float) -> tuple[bool, str]:
    """Return true where the judge alone beats its shuffled input (paired, p < max_p) and the first stage; and the
    finding in words."""
    judge_ndcg, means = facts["per_query"][JUDGE], facts["ndcg_10"]
    p = statistics.paired_p(judge_ndcg, facts["per_query"]["shuffled"], "greater")
    passed = p < max_p and means[JUDGE] > means[against]
    verdict = "worth its labels" if passed else "NOT worth its labels"
    first = "the order given" if against == teacher.GIVEN else f"first stage {against}"
    text = (
        f"on {facts['queries']} judged dev queries the labeller reaches nDCG@10 {means[JUDGE]:.3f}; shuffled input "
        f"{means['shuffled']:.3f} (p = {p:.2g}), {first} {means[against]:.3f}"
    )
    if "fusion" in means:
        text += f"; free fusion {means['fusion']:.3f}, labeller fused with the sources {means['teacher']:.3f}"
    return passed, f"{text}: {verdict}"
