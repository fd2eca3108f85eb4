"""The check before labels are paid for: does the labeller beat shuffled input and the first stage on dev?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rrad_ray import tables
from rrad_ray.config import JudgeConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation import statistics
from rrad_ray.labelling import teacher
from rrad_ray.labelling.teacher import JUDGE
from rrad_ray.progress import say
from rrad_ray.rows import JudgeOutput, with_qrels

LEAST_QUERIES = 2  # of a test of significance


class Gate:
    """The check of a labeller: it reads the dev parts as they are done, and stops the run if the labeller is not
    worth its labels."""

    def __init__(self, cfg: JudgeConfig, out: tables.Output, dev: list[str]) -> None:
        self.cfg, self.out, self.waiting, self.dev = cfg, out, set(dev), dev
        self.facts: dict[str, Any] = {}

    def look(self, done: list[str]) -> None:
        """Raise `RradError` once all dev parts are done and the labeller beats neither shuffled input nor first
        stage."""
        self.waiting -= set(done)
        if self.waiting or self.facts or not self.dev:
            return
        rows = [row for name in self.dev for row in tables.read_part(self.out.uri, name, JudgeOutput)]
        judged = with_qrels(rows)
        if len(judged) < max(LEAST_QUERIES, self.cfg.gate.min_queries):
            say(f"only {len(judged)} judged dev queries: the labeller is not checked")
            self.facts = {"queries": len(judged), "checked": False}
            return
        against = self.cfg.gate.against
        if against not in judged[0]["sources"]:
            have = ", ".join(judged[0]["sources"])
            raise RradError("gate.against", f"'{against}' is not among the sources ({have})", "choose one")
        self.facts = teacher.teacher_quality(judged)
        passed, text = gate(self.facts, against, self.cfg.gate.max_p)
        say(f"check: {text}")
        self.facts |= {"checked": True, "passed": passed}
        if not passed and self.cfg.gate.enabled:
            remedy = "use a better model, template or task; or set gate.enabled=false to label all the same"
            raise RradError(self.cfg.model, text, remedy)


def gate(facts: Mapping[str, Any], against: str, max_p: float) -> tuple[bool, str]:
    """Return true where the judge alone beats its shuffled input (paired, p < max_p) and the first stage; and the
    finding in words."""
    judge_ndcg, means = facts["per_query"][JUDGE], facts["ndcg_10"]
    p = statistics.paired_p(judge_ndcg, facts["per_query"]["shuffled"], "greater")
    passed = p < max_p and means[JUDGE] > means[against]
    verdict = "worth its labels" if passed else "NOT worth its labels"
    text = (
        f"on {facts['queries']} judged dev queries the labeller reaches nDCG@10 {means[JUDGE]:.3f}; shuffled input "
        f"{means['shuffled']:.3f} (p = {p:.2g}), first stage {against} {means[against]:.3f}; free fusion "
        f"{means['fusion']:.3f}, labeller fused with the sources {means['teacher']:.3f}: {verdict}"
    )
    return passed, text
