"""The evaluation of all systems on the test queries: quality with intervals and tests, and latency."""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rrad_ray import tables, versions
from rrad_ray.config import EvaluateConfig
from rrad_ray.data import trec
from rrad_ray.errors import RradError
from rrad_ray.evaluation import fusion, metrics, statistics
from rrad_ray.evaluation.measures import Ranked, Scores, pair_counts_of, per_query
from rrad_ray.evaluation.metrics import by_length
from rrad_ray.evaluation.statistics import holm
from rrad_ray.progress import Progress, say
from rrad_ray.rankers.likelihood import LikelihoodRanker
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.rows import Labels, Row, by_source
from rrad_ray.tables import checkpoints

SMOKE_DOCS = 5  # documents of the query that the endpoint scores again before a winner goes live

# The operations that a latency is of, as the report names them.
SEARCH = "one search over the whole collection"
RERANK = "re-ranking {docs} documents given as text"


class Evaluation:
    """The systems measured so far on the test queries, and the report on them."""

    def __init__(self, cfg: EvaluateConfig, test: list[Row], dev: list[Row]) -> None:
        self.cfg, self.test, self.dev = cfg, test, dev
        self.systems: list[dict[str, Any]] = []
        self.scores: dict[str, Scores] = {}
        self.ranked: dict[str, list[Ranked]] = {}
        self.dev_scores: dict[str, Scores] = {}
        self.quality: dict[str, dict[str, list[float]]] = {}
        self.first = tables.lineage_of(cfg.input).first_stage or tables.FirstStageFacts(cfg.input)
        self.labels = tables.lineage_of(cfg.labels) if cfg.labels else tables.Lineage()
        self.sources = list(test[0]["sources"])

    def add(
        self,
        system: str,
        title: str,
        kind: str,
        scores: Scores,
        ranked: list[Ranked] | None = None,
        **facts: Any,
    ) -> None:
        """Measure a system's quality on the test queries and add it to the report, with the facts on its cost.

        `ranked`: its rankings, where these are not the candidates sorted by `scores`.
        """
        ranked = ranked or [_ranking(row, values) for row, values in zip(self.test, scores, strict=True)]
        quality = per_query(self.test, ranked, self.cfg.metrics)
        counts = pair_counts_of(self.test, scores)
        seed = self.cfg.seed
        summary = {name: _summary(values, np.mean, seed) for name, values in quality.items()}
        summary["PNR"] = _summary(counts, lambda sample: metrics.pnr(sample), seed)
        self.scores[system], self.ranked[system], self.quality[system] = scores, ranked, quality
        blank = {"parameters": None, "documents_per_s": None, "latency_ms": None, "latency_of": "", "note": ""}
        self.systems.append({"system": system, "title": title, "kind": kind, "metrics": summary, **blank, **facts})
        say(f"{title}: nDCG@10 {summary['nDCG@10']['mean']:.3f}")

    # ---- the systems ----

    def first_stage(self) -> None:
        """Add each source of the first stage, and their free fusion with weights fitted on dev."""
        titles = {"bm25": ("BM25", "first_stage"), "dense": ("bi-encoder (pre-ranker)", "pre_ranker")}
        for source in self.sources:
            title, kind = titles.get(source, (source, "first_stage"))
            cost: Any = self.first.sources.get(source, {})
            self.add(source, title, kind, self._source(self.test, source), **cost, latency_of=SEARCH)
        if len(self.sources) > 1 and self.dev:
            self._fused("fusion", "free fusion of these", "fusion", {}, {})

    def runs(self) -> None:
        """Add the TREC runs of the config; a document that is no candidate counts as any other does."""
        for name, uri in self.cfg.runs.items():
            run = trec.read_trec_run(uri)
            ranked = [run.get(row["query_id"], []) for row in self.test]
            missing = sum(not ranking for ranking in ranked)
            if missing == len(self.test):
                problem = f"ranks none of the {missing} judged queries of split '{self.cfg.split}'"
                raise RradError(f"runs.{name}: {uri}", problem, "its query ids must be those of the input")
            scores = [_scores_of(row, dict(ranking)) for row, ranking in zip(self.test, ranked, strict=True)]
            note = f"{missing} of {len(self.test)} test queries are not in it" if missing else ""
            self.add(name, name, "run", scores, ranked, note=note)

    def teacher(self) -> None:
        """Add the labels' targets on the test queries, which the students were trained to match."""
        if not self.cfg.labels:
            return
        labelled = {row["query_id"]: row for row in tables.read(self.cfg.labels, Labels)}
        scores, unlabelled = [], 0
        for row in self.test:
            label = labelled.get(row["query_id"])
            unlabelled += label is None
            targets = dict(zip(label["doc_ids"], label["targets"], strict=True)) if label else {}
            scores.append(_scores_of(row, targets))
        note = f"{unlabelled} of {len(self.test)} test queries have no label" if unlabelled else ""
        if self.labels.simulated:
            note = f"simulated from the judgments. {note}".strip()
        self.add("teacher", "LLM teacher", "teacher", scores, note=note, **self._teacher_cost())

    def _teacher_cost(self) -> dict[str, Any]:
        """Measure parameters and latency of the teacher's model; empty if the config names none."""
        if not self.cfg.teacher:
            return {}
        source = checkpoints.resolve(self.cfg.teacher)
        ranker = LikelihoodRanker(source, template=self.cfg.template, doc_tokens=self.cfg.doc_tokens)
        weights = sum(weight.numel() for weight in ranker.model.parameters())
        return {"parameters": weights, **self._latency(ranker.score, max(5, self.cfg.latency_repeats // 3))}

    def students(self) -> None:
        """Add each student, alone and fused with the first stage with weights fitted on dev."""
        for name, uri in self.cfg.students.items():
            ranker = self._student(uri)
            test_scores, dev_scores = (self._score_rows(ranker, rows, name) for rows in (self.test, self.dev))
            cost = {"parameters": ranker.parameters_count, **self._latency(ranker.score, self.cfg.latency_repeats)}
            title = name if "student" in name else f"{name} student"
            self.add(name, title, "student", test_scores, **cost, smoke=self._smoke(test_scores))
            if self.dev:
                self._fused(
                    f"{name}+first",
                    f"{title} + first stage",
                    "student_fused",
                    {name: test_scores},
                    {name: dev_scores},
                )

    def _student(self, uri: str) -> Ranker:
        """Load a student with the config's precision and backend; raises `RradError` where it cannot be so loaded."""
        folder = checkpoints.resolve(uri)
        try:
            return Ranker.load(folder, dtype=self.cfg.precision, backend=self.cfg.backend)
        except ValueError as error:
            raise RradError.of(uri, error, "set backend=torch") from error

    def _smoke(self, scores: Scores) -> dict[str, Any]:
        """Return a query with the student's scores of its first documents, which the endpoint checks at its start."""
        row = self.test[0]
        texts = list(row["texts"][:SMOKE_DOCS])
        return {"query": row["query"], "documents": texts, "scores": scores[0][:SMOKE_DOCS]}

    def _score_rows(self, ranker: Ranker, rows: list[Row], name: str) -> Scores:
        """Score all candidates of the rows, 16 queries at a time."""
        progress, scores = Progress(len(rows), f"queries by {name}"), []
        for start in range(0, len(rows), 16):
            batch = rows[start : start + 16]
            queries = [row["query"] for row in batch for _ in row["texts"]]
            flat = iter(ranker.score_pairs(queries, [text for row in batch for text in row["texts"]]))
            scores += [[next(flat) for _ in row["texts"]] for row in batch]
            progress.add(len(batch))
        return scores

    def _source(self, rows: list[Row], source: str) -> Scores:
        """Return a first-stage source's scores of the rows' candidates."""
        return [list(by_source(row)[source]) for row in rows]

    def _fused(self, system: str, title: str, kind: str, test: dict[str, Scores], dev: dict[str, Scores]) -> None:
        """Add the weighted sum of z-scores of the sources and of the systems of `test`.

        `test` and `dev` hold these systems' scores of the two splits. The weights are those with the best nDCG@10 on
        dev.
        """
        mixes = []
        for rows, extra in ((self.test, test), (self.dev, dev)):
            mixes.append(
                [
                    {**by_source(row), **{name: scores[number] for name, scores in extra.items()}}
                    for number, row in enumerate(rows)
                ]
            )
        weights, _ = fusion.fit_weights(self.dev, mixes[1], [*self.sources, *test])
        shown = " + ".join(f"{weight:g} x {name}" for name, weight in weights.items() if weight)
        facts: dict[str, Any] = {"note": f"{shown}, weights from {self.cfg.dev}"}
        if not test:
            facts |= self._sum_of_costs()
        self.add(system, title, kind, [fusion.fuse(mix, weights) for mix in mixes[0]], **facts)

    def _sum_of_costs(self) -> dict[str, Any]:
        """Return the cost of the free fusion: that of all its sources. Empty where one of them is not known."""
        costs = [self.first.sources.get(source) for source in self.sources]
        known = [cost for cost in costs if cost]
        if len(known) < len(costs):
            return {}
        total = {at: sum(cost["latency_ms"][at] for cost in known) for at in ("p50", "p99")}
        per_s = 1 / sum(1 / cost["documents_per_s"] for cost in known)
        return {
            "latency_ms": total,
            "documents_per_s": per_s,
            "parameters": sum(cost["parameters"] for cost in known),
            "latency_of": SEARCH,
        }

    def _latency(self, score: Callable[[str, Sequence[str]], Any], repeats: int) -> dict[str, Any]:
        """Measure p50 and p99 of one query with `latency_docs` documents, and documents/s, on this machine.

        The first two of `repeats` + 2 queries warm up and do not count.
        """
        docs, times_ms = self.cfg.latency_docs, []
        pool = [text for row in self.test for text in row["texts"]]
        for number in range(repeats + 2):
            start = number * docs % max(1, len(pool) - docs)
            began = time.perf_counter()
            score(self.test[number % len(self.test)]["query"], pool[start : start + docs])
            times_ms.append(1000 * (time.perf_counter() - began))
        times_ms = times_ms[2:]
        p50, p99 = (float(np.percentile(times_ms, at)) for at in (50, 99))
        per_s = 1000 * docs / float(np.mean(times_ms))
        of = RERANK.format(docs=docs)
        return {"latency_ms": {"p50": p50, "p99": p99}, "documents_per_s": per_s, "latency_of": of}

    # ---- results ----

    def rankings(self, system: Mapping[str, Any]) -> list[Row]:
        """Return the rows of the rankings table for one system."""
        name = system["system"]
        rows: list[Row] = []
        for number, (row, ranked) in enumerate(zip(self.test, self.ranked[name], strict=True)):
            rows.append(
                {
                    "system": name,
                    **{key: row[key] for key in ("query_id", "query", "split")},
                    "doc_ids": [doc_id for doc_id, _ in ranked],
                    "scores": [float(score) for _, score in ranked],
                    "ndcg_10": self.quality[name]["nDCG@10"][number],
                    "mrr_10": self.quality[name]["MRR@10"][number],
                }
            )
        return rows

    def tests(self) -> list[dict[str, Any]]:
        """Return paired t-tests on nDCG@10 of the teacher and every student against every cheaper system and run.

        Students are compared with the teacher too. `p_holm`: corrected for all tests of the report (Holm, 1979).
        """
        results: list[dict[str, Any]] = []
        cheap = [s["system"] for s in self.systems if s["kind"] in ("first_stage", "pre_ranker", "fusion", "run")]
        for system in self.systems:
            rivals = cheap if system["kind"] == "teacher" else [*cheap, "teacher"]
            if system["system"] in cheap:
                continue
            for rival in (name for name in rivals if name in self.quality):
                results.append(
                    {"system": system["system"], "against": rival, **self._paired(system["system"], rival)}
                )
        for test, p in zip(results, holm([test["p"] for test in results]), strict=True):
            test["p_holm"] = p
        return results

    def _paired(self, system: str, rival: str) -> dict[str, Any]:
        """Compare two systems' nDCG@10 query by query: mean difference, p of a paired t-test, wins, losses, ties."""
        ours, theirs = (np.asarray(self.quality[name]["nDCG@10"]) for name in (system, rival))
        wins, losses = int((ours > theirs).sum()), int((ours < theirs).sum())
        p = statistics.paired_p(list(ours), list(theirs))
        ties = len(ours) - wins - losses
        return {"delta": float((ours - theirs).mean()), "p": p, "wins": wins, "losses": losses, "ties": ties}

    def segments(self) -> list[dict[str, Any]]:
        """Return the mean nDCG@10 of every system on short, medium and long queries."""
        words = np.array([len(row["query"].split()) for row in self.test])
        rows = []
        for title, inside in by_length(words).items():
            if inside.any():
                ndcg = {name: float(np.asarray(q["nDCG@10"])[inside].mean()) for name, q in self.quality.items()}
                rows.append({"segment": title, "queries": int(inside.sum()), "ndcg_10": ndcg})
        return rows

    def report(self) -> dict[str, Any]:
        """Return the content of report.json, which `summary` and `report_html` show."""
        cfg = self.cfg
        return {
            "name": cfg.title or "evaluation",
            "data": self.first.data,
            "split": cfg.split,
            "queries": len(self.test),
            "candidates_per_query": float(np.mean([len(row["doc_ids"]) for row in self.test])),
            "systems": self.systems,
            "tests": self.tests(),
            "segments": self.segments(),
            "per_query": {name: values["nDCG@10"] for name, values in self.quality.items()},
            "query_texts": [row["query"] for row in self.test],
            "training": [self._training(name, uri) for name, uri in cfg.students.items()],
            "winner": None,
            "teacher": self._taught(),
            "examples": self._examples(),
            "machine": {"cpu": _cpu(), "cores": os.cpu_count()},
            "versions": {"python": platform.python_version(), **versions.installed()},
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def _taught(self) -> dict[str, Any]:
        """Return what the labels' lineage says of the teacher; empty values without labels."""
        facts = self.labels.labels
        if facts is None:
            return {"model": None, "weights": None, "label_quality": None, "simulated": None, "gate": []}
        gate = [{"system": name, "ndcg": value} for name, value in facts.dev.get("ndcg_10", {}).items()]
        shown = {"model": facts.model, "weights": facts.weights, "label_quality": facts.label_quality}
        return {**shown, "simulated": self.labels.simulated, "gate": gate}

    def _training(self, name: str, uri: str) -> dict[str, Any]:
        """Return a student's training history: loss and dev nDCG@10 by step, where its folder has them."""
        return {"student": name, **tables.read_history(uri)}

    def _examples(self) -> list[dict[str, Any]]:
        """Return the queries that the best student changes most: two that gain most and one that loses most."""
        students = [s["system"] for s in self.systems if s["kind"] == "student"]
        before = max(
            (s["system"] for s in self.systems if s["kind"] in ("first_stage", "pre_ranker", "fusion")),
            key=lambda name: float(np.mean(self.quality[name]["nDCG@10"])),
        )
        if not students:
            return []
        after = max(students, key=lambda name: float(np.mean(self.quality[name]["nDCG@10"])))
        change = np.asarray(self.quality[after]["nDCG@10"]) - np.asarray(self.quality[before]["nDCG@10"])
        order = np.argsort(-change, kind="stable")
        examples = []
        for number in (*order[:2], order[-1]):
            row = self.test[number]
            tops = {
                name: [row["doc_ids"][i] for i in ranked_order(self.scores[name][number])[:5]]
                for name in (before, after)
            }
            grades = dict(zip(row["qrel_ids"], row["qrel_grades"], strict=True))
            examples.append({"query": row["query"], "before": tops[before], "after": tops[after], "grades": grades})
        return examples


def _scores_of(row: Row, known: Mapping[str, float]) -> list[float]:
    """Return the scores of a row's candidates; one without a score gets 1 less than the lowest."""
    lowest = min(known.values(), default=0.0) - 1.0
    return [known.get(doc_id, lowest) for doc_id in row["doc_ids"]]


def _ranking(row: Row, scores: Sequence[float]) -> Ranked:
    """Return a row's candidates with their scores, best first."""
    return [(row["doc_ids"][index], float(scores[index])) for index in ranked_order(scores)]


def ranked_order(scores: Sequence[float]) -> Any:
    """Return the indices of the documents, best first; ties keep the row's order."""
    return np.argsort(-np.asarray(scores), kind="stable")


def _summary(values: Sequence[Any], statistic: Callable[[Any], float], seed: int) -> dict[str, float | None]:
    """Return a statistic over queries with its 95 % bootstrap interval; None where it is infinite."""
    low, high = statistics.bootstrap_interval(values, statistic, seed)
    summary = {"mean": float(statistic(np.asarray(values, dtype=float))), "low": low, "high": high}
    return {key: value if np.isfinite(value) else None for key, value in summary.items()}


def _cpu() -> str:
    """Return the processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
