"""The evaluation: sources, fusions, runs, the teacher and the students, measured on the same test queries."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rrad_ray import tables
from rrad_ray.config import EvaluateConfig
from rrad_ray.data import trec
from rrad_ray.errors import InvalidInput, RradError, at_place
from rrad_ray.evaluation import fusion
from rrad_ray.evaluation.calibration import calibrated_by_lists
from rrad_ray.evaluation.latency import FUSED, SEARCH, fusion_cost, rerank_latency
from rrad_ray.evaluation.learnt import learnt_by
from rrad_ray.evaluation.measures import Ranked, Scores
from rrad_ray.evaluation.student_scores import StudentScoring
from rrad_ray.evaluation.systems import Kind, MeasuredSystem, candidate_scores, measured
from rrad_ray.progress import say
from rrad_ray.rankers import loading
from rrad_ray.rankers.chunker import ChunkRanker
from rrad_ray.rankers.likelihood import LikelihoodRanker
from rrad_ray.rows import BM25, DENSE, SAME_SOURCES, Labels, Row, by_source, check_same_query, check_sources
from rrad_ray.tables import checkpoints

SMOKE_DOCS = 5  # documents of the query that the endpoint scores again before a winner goes live

# The sources of `retrieve` by name, with title and kind; any other source is a first stage under its own name.
KNOWN_SOURCES: dict[str, tuple[str, Kind]] = {
    BM25: ("BM25", "first_stage"),
    DENSE: ("bi-encoder (pre-ranker)", "pre_ranker"),
}


Lists = Sequence[Sequence[Row]]  # of queries, as `Evaluation` has them


class Evaluation:
    """The systems measured so far on the test queries, in the order of the report.

    `lists`: test and dev, whose queries have a relevant document, and those of both that were judged in vain, which
    count for probabilities alone: a verdict of "nothing relevant" is about them. `scoring`: of the students, on all
    lists. `lineage`: of the candidates. `first`: the first stage behind them, with its cost. `labels`: the lineage of
    the teacher's labels.
    """

    def __init__(
        self, cfg: EvaluateConfig, test: list[Row], dev: list[Row], scoring: StudentScoring, barren: Lists = ((), ())
    ) -> None:
        """`barren`: the queries of test and of dev that were judged in vain."""
        self.cfg, self.test, self.dev, self.scoring = cfg, test, dev, scoring
        self.lists: Lists = (test, dev, *barren)
        self.systems: list[MeasuredSystem] = []
        self.lineage = tables.lineage_of(cfg.input)
        self.first = self.lineage.first_stage or tables.FirstStageFacts(cfg.input)
        self.labels = tables.lineage_of(cfg.labels) if cfg.labels else tables.Lineage()
        self.sources = list(test[0]["sources"])

    def measure_all(self) -> None:
        """Measure every system of the config.

        Raises `RradError`, before all else, for a student that is no ranker, for two systems of one name, for rows of
        different sources and for a teacher that has made the qrels.
        """
        self._check_teachers()
        self._check_names()
        self._check_sources()
        for uri in self.cfg.students.values():
            with at_place(uri, "give the output of train"):
                loading.check_ranker(checkpoints.resolve(uri))
        self.first_stage()
        self.runs()
        self.teacher()
        self.students()

    def _check_teachers(self) -> None:
        """Raise `RradError` for labels or a student by a teacher that has made the qrels."""
        with at_place("labels", "take those of another teacher"):
            self.lineage.check_teachers(self.labels.teachers)
        for name, uri in self.cfg.students.items():
            with at_place(f"students.{name}", "take one of another teacher"):
                self.lineage.check_teachers(checkpoints.student_lineage(uri).teachers)

    def _check_names(self) -> None:
        """Raise `RradError` for two systems of one name: the report keeps one figure for a name."""
        named = [("input", source) for source in self.sources]
        named += [("input", "fusion")] if len(self.sources) > 1 and self.dev else []
        named += [(f"runs.{name}", name) for name in self.cfg.runs]
        named += [("labels", "teacher")] if self.cfg.labels else []
        for name in self.cfg.students:
            named += [(f"students.{name}", name)]
            named += [(f"students.{name}", fused_name(name))] if self.dev else []
        owners: dict[str, str] = {}
        for key, name in named:
            if name in owners:
                problem = f"two systems are called '{name}', the other one by {owners[name]}"
                raise RradError(key, problem, "give it another name")
            owners[name] = key

    def _check_sources(self) -> None:
        """Raise `RradError` for a row without a source that another row has."""
        rows = list(itertools.chain(*self.lists))
        sources = {source: None for row in rows for source in row["sources"]}
        with at_place(self.cfg.input, SAME_SOURCES):
            for row in rows:
                check_sources(row, sources)

    def add(
        self, name: str, title: str, kind: Kind, scores: Scores, rankings: list[Ranked] | None = None, **cost: Any
    ) -> None:
        """Measure a system's quality and add it, with what is known of its cost.

        `rankings`: where these are not the candidates sorted by `scores`.
        """
        entry = {"system": name, "title": title, "kind": kind, **cost}
        more, seed = self.cfg.metrics, self.cfg.seed
        system = measured(self.test, scores, rankings, entry=entry, more=more, seed=seed)
        self.systems.append(system)
        say(f"{title}: nDCG@10 {system.entry['metrics']['nDCG@10']['mean']:.3f}")

    def first_stage(self) -> None:
        """Add each source of the first stage, and their free fusion with weights fitted on dev."""
        for source in self.sources:
            title, kind = KNOWN_SOURCES.get(source, (source, "first_stage"))
            scores = [[list(by_source(row)[source]) for row in rows] for rows in self.lists]
            cost: Any = calibrated_by_lists(self.lists, scores) | self.first.sources.get(source, {})
            notes = _silence_note(scores[0])
            notes += [tables.index_sentence(self.first.index)] if source == DENSE and self.first.index else []
            self.add(source, title, kind, scores[0], **cost, latency_of=SEARCH, note="; ".join(notes))
        if len(self.sources) > 1 and self.dev:
            cost = fusion_cost([self.first.sources.get(source) for source in self.sources])
            self._add_fusion("fusion", "free fusion of these", "fusion", lambda weights: cost)

    def runs(self) -> None:
        """Add the TREC runs of the config; a document that is no candidate counts as any other does."""
        wanted = {row["query_id"] for row in self.test}
        for name, uri in self.cfg.runs.items():
            run = trec.read_trec_run(uri, wanted)
            rankings = [run.get(row["query_id"], []) for row in self.test]
            missing = sum(not ranking for ranking in rankings)
            if missing == len(self.test):
                problem = f"ranks none of the {missing} judged queries of split '{self.cfg.split}'"
                raise RradError(f"runs.{name}: {uri}", problem, "its query ids must be those of the input")
            scores = [candidate_scores(row, dict(each)) for row, each in zip(self.test, rankings, strict=True)]
            note = f"{missing} of {len(self.test)} test queries are not in it" if missing else ""
            self.add(name, name, "run", scores, rankings, note=note)

    def teacher(self) -> None:
        """Add the labels' targets on the test queries, which the students were trained to match."""
        if not self.cfg.labels:
            return
        labelled = {row["query_id"]: row for row in tables.read_split(self.cfg.labels, Labels, self.cfg.split)}
        scores, unlabelled = [], 0
        for row in self.test:
            label = labelled.get(row["query_id"])
            with at_place(f"labels: {self.cfg.labels}", "give the labels of this input"):
                targets = _targets(row, label) if label else {}
            unlabelled += targets.keys().isdisjoint(row["doc_ids"])
            scores.append([targets.get(doc_id, math.nan) for doc_id in row["doc_ids"]])
        if unlabelled == len(self.test):
            problem = f"has a label of none of the {unlabelled} judged queries of split '{self.cfg.split}'"
            raise RradError(f"labels: {self.cfg.labels}", problem, "give labels of this split, or leave labels out")
        note = f"{unlabelled} of {len(self.test)} test queries have no label" if unlabelled else ""
        if self.labels.simulated:
            note = f"simulated from the judgments. {note}".strip()
        self.add("teacher", "LLM teacher", "teacher", scores, note=note, **self._teacher_cost())

    def _teacher_cost(self) -> dict[str, Any]:
        """Measure parameters and latency of the teacher's model; empty if the config names none."""
        if not self.cfg.teacher:
            return {}
        source = checkpoints.resolve(self.cfg.teacher)
        with at_place(self.cfg.teacher, "name a causal LM"):
            ranker = LikelihoodRanker(source, template=self.cfg.template, doc_tokens=self.cfg.doc_tokens)
        parameters = sum(weight.numel() for weight in ranker.model.parameters())
        repeats = max(5, self.cfg.latency_repeats // 3)
        latency = rerank_latency(ranker.score, self.test, self.cfg.latency_docs, repeats)
        return {"parameters": parameters, **latency}

    def students(self) -> None:
        """Add each student, alone and fused with the first stage with weights fitted on dev."""
        self.scoring.prepare()
        for name, uri in self.cfg.students.items():
            rows = self.scoring.scores(name)
            scored, chunks = (iter([row[column] for row in rows]) for column in ("scores", "best_chunks"))
            scores = [list(itertools.islice(scored, len(each))) for each in self.lists]
            test_scores = scores[0]
            ranker = self.scoring.ranker(name)
            latency = rerank_latency(ranker.score, self.test, self.cfg.latency_docs, self.cfg.latency_repeats)
            cost = {"parameters": ranker.parameters_count, **latency}
            title = student_title(name)
            ties, training = _ties_note(test_scores, title), _training_note(uri, title, self.cfg, self.lists)
            tokens = self.cfg.chunks.tokens
            read = f"reads documents in chunks of {tokens} tokens, the best one counts" if tokens else ""
            note = " and ".join(filter(None, (training, ties, read)))
            facts: Any = {"smoke": _smoke(self.test[0], test_scores[0]), "note": note, "constant": bool(ties)}
            cost |= calibrated_by_lists(self.lists, scores)
            self.add(name, title, "student", test_scores, **cost, **facts)
            if tokens:
                best = list(itertools.islice(chunks, len(self.test)))
                self.systems[-1] = dataclasses.replace(self.systems[-1], best_chunks=best)
            if self.dev:
                fused_cost = functools.partial(self._fused_cost, name, ranker)
                fused_title = f"{title} + first stage"
                self._add_fusion(fused_name(name), fused_title, "student_fused", fused_cost, {name: scores})

    def _fused_cost(self, name: str, ranker: ChunkRanker, weights: dict[str, float]) -> dict[str, Any]:
        """Measure a student's fusion as it is served: it scores the texts, and the sources' scores come with them."""

        def rank(query: str, texts: Sequence[str]) -> list[float]:
            given = {source: range(len(texts)) for source in self.sources}
            return fusion.fuse({**given, name: ranker.score(query, texts)}, weights)

        latency = rerank_latency(rank, self.test, self.cfg.latency_docs, self.cfg.latency_repeats)
        what = FUSED.format(latency["latency_of"])
        return {"student": name, "parameters": ranker.parameters_count, **latency, "latency_of": what}

    def _add_fusion(
        self,
        name: str,
        title: str,
        kind: Kind,
        cost: Callable[[dict[str, float]], dict[str, Any]],
        more: Mapping[str, Sequence[Scores]] | None = None,
    ) -> None:
        """Add the weighted sum of z-scores of the sources and of `more`, systems' scores on all lists.

        The weights are those with the best nDCG@10 on dev. `cost` says what a fusion with these weights costs.
        """
        more = more or {}
        columns = _columns(self.lists, more)
        weights, _ = fusion.fit_weights(self.dev, columns[1], [*self.sources, *more])
        shown = " + ".join(f"{weight:g} x {system}" for system, weight in weights.items() if weight)
        note = f"{shown}, weights from {self.cfg.dev}"
        fused = [[fusion.fuse(scores, weights) for scores in each] for each in columns]
        probabilities = calibrated_by_lists(self.lists, fused)
        self.add(name, title, kind, fused[0], note=note, weights=weights, **cost(weights), **probabilities)


def _columns(lists: Lists, more: Mapping[str, Sequence[Scores]]) -> list[list[dict[str, Any]]]:
    """Return for each row of each list its scores by source, and those of `more` systems beside them."""
    return [
        [
            {**by_source(row), **{system: scores[which][number] for system, scores in more.items()}}
            for number, row in enumerate(rows)
        ]
        for which, rows in enumerate(lists)
    ]


def _targets(row: Row, label: Row) -> dict[str, float]:
    """Return a row's targets by document. Raises `ValueError` for a label of another query, and for a target that is
    not a number."""
    check_same_query(row, label)
    if not all(map(math.isfinite, label["targets"])):
        raise InvalidInput(f"query {row['query_id']!r} has a target that is not a number", "run label again")
    return dict(zip(label["doc_ids"], label["targets"], strict=True))


def _training_note(uri: str, title: str, cfg: EvaluateConfig, lists: Sequence[Sequence[Row]]) -> str:
    """Return, and say, that a time limit cut a student's training short, or that it learnt from queries by which it
    is measured or from simulated labels; empty for a student of which nothing of it holds."""
    lineage = checkpoints.student_lineage(uri)
    training = lineage.training or tables.TrainingFacts()
    simulated = "learnt from simulated labels" if lineage.simulated else ""
    seen = [split for split in (cfg.split, cfg.dev) if split in training.splits]
    learnt = f"learnt from queries of split {' and '.join(seen)}, which measure it here" if seen else ""
    queries = [row["query"] for row in itertools.chain(*lists)]
    if not seen and (count := learnt_by(uri, queries)):
        learnt = f"learnt from {count:,} of the {len(queries):,} queries that measure it here"
    note = " and ".join(filter(None, (training.cut_short, learnt, simulated)))
    if note:
        say(f"WARNING: {title} {note}")
    return note


def _silence_note(scores: Scores) -> list[str]:
    """Return the note on a source that lists nothing for some queries; empty for another one."""
    silent = sum(not any(map(math.isfinite, values)) for values in scores)
    return [f"lists nothing for {silent} of {len(scores)} test queries"] if silent else []


def _ties_note(scores: Scores, title: str) -> str:
    """Return, and say, that a student tells no two documents apart; empty for one that does.

    Ties keep the candidates' order, so such a student has the first stage's quality without any of its own.
    """
    if any(len(set(values)) > 1 for values in scores) or all(len(values) < 2 for values in scores):
        return ""
    note = "gives all documents of a query the same score: its figures are those of the candidates' order"
    say(f"WARNING: {title} {note}")
    return note


def _smoke(row: Row, scores: Sequence[float]) -> dict[str, Any]:
    """Return a query with the student's scores of its first documents, which the endpoint checks at its start."""
    return {"query": row["query"], "documents": list(row["texts"][:SMOKE_DOCS]), "scores": scores[:SMOKE_DOCS]}


def fused_name(name: str) -> str:
    """Return the name of a student's fusion with the first stage."""
    return f"{name}+first"


def student_title(name: str) -> str:
    """Return a student's title in the report: `encoder student`, but a name that says so already stays as it is."""
    return name if "student" in name else f"{name} student"
