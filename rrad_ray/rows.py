"""The row types: one TypedDict per table that passes between stages.

One row is one query with its parallel lists of documents, so a row is all that an actor needs: no joins while
labelling. `tables/schema.py` derives each table's Arrow schema from these types; readers and writers check it.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, get_args

from rrad_ray.errors import InvalidInput

# What mends the error of `check_sources`.
SAME_SOURCES = "give a table whose rows all have the same sources"
BM25, DENSE, PRERANK = "bm25", "dense", "prerank"  # the sources that `retrieve` and `prerank` make
JUDGE = "judge"  # the teacher among the sources


class Candidates(TypedDict):
    """A query and its candidate documents, best first by `scores`.

    `sources` names the rankers that scored these documents (`bm25`, `dense`, a run's tag); `source_scores[s][i]`
    is what source `s` gave document `i`, NaN where that source did not score it. `qrel_ids` and
    `qrel_grades` hold every judgment that the collection has for the query, also of documents that are not
    among the candidates: metrics need them all. Both are empty for a query without judgments.
    """

    query_id: str
    query: str
    split: str  # train | dev | test | unlabelled
    doc_ids: list[str]
    texts: list[str]
    scores: list[float]
    sources: list[str]
    source_scores: list[list[float]]
    qrel_ids: list[str]
    qrel_grades: list[int]


class CollectedQuery(TypedDict):
    """A query that is new since the last night, with its split and its qrels, if it has any."""

    query_id: str
    query: str
    split: str
    qrel_ids: list[str]
    qrel_grades: list[int]


class PrerankOutput(Candidates):
    """The candidates of `prerank`. `best_chunks[i]`: the characters [start, end) of document i's best chunk, which
    gave it its score; empty without chunks."""

    best_chunks: list[list[int]]


class JudgeOutput(Candidates):
    """A query with what the judge was shown and what came back; `label` can be run again on it without the engine.

    task `likelihood`: `judge_scores[i]` is the mean log-probability of the query's tokens given document i
    (nats per token); task `score`: what the teacher's ranking head gives query and document i; task
    `grade`: the grade that its labels' logits give, on the template's scale. task `order`: one
    entry of `shown` (the candidates' indices in the order shown) and of `responses` (the raw answer) for each of the
    `repeats` calls, and with `answer: first_token` in `judge_scores` the mean log-probability of each document's
    identifier. `reasons[i]`: why document i stands where it stands, once `explain` has run over the table.
    `truncated`: how many documents were cut below `doc_tokens` to fit the model. Tokens are the last task's.
    `best_chunks[i]`: where documents are in chunks, the characters [start, end) of the one that document i's score is
    of; else empty, as in tables of earlier versions. `cut[i]`: whether the limit of tokens has ended answer i; empty
    where it has ended none.
    """

    task: str
    model: str
    shown: list[list[int]]
    responses: list[str]
    judge_scores: list[float]
    reasons: list[str]
    truncated: int
    prompt_tokens: int
    generated_tokens: int
    best_chunks: NotRequired[list[list[int]]]
    cut: NotRequired[list[bool]]


class Labels(Candidates):
    """Training targets, one for each document: higher is better.

    `missing[i]`: the LLM left document i out. `confidence[i]`: how much of what several answers say about document
    i the targets keep, 0 to 1. `parse_status`: one for each answer. `reasons`: empty, or one for each document.
    """

    targets: list[float]
    missing: list[bool]
    confidence: list[float]
    reasons: list[str]
    parse_status: list[str]


class TrainingRow(TypedDict):
    """The columns of a `Labels` row that training reads."""

    query_id: str
    query: str
    split: str
    doc_ids: list[str]
    texts: list[str]
    targets: list[float]
    missing: list[bool]
    reasons: list[str]


class Click(TypedDict):
    """A document that was clicked for a query, from the engine's log. `clicks`: how often, from 1."""

    query: str
    title: str
    summary: str  # may be empty
    clicks: int


class Answer(TypedDict):
    """An engine's answer that is durable before its shard is: prompt `slot` of row `row` of an output part."""

    part: str
    row: int
    slot: int
    text: str
    score: float
    scores: list[float]  # of each document shown, where an order's first token is the answer
    chunk: NotRequired[list[int]]  # where documents are in chunks: the characters [start, end) that the score is of
    cut: NotRequired[list[bool]]  # [True] where the limit of tokens has ended the answer
    truncated: int
    prompt_tokens: int
    generated_tokens: int
    error: str


class Ranking(TypedDict):
    """A system's order of one query's candidates, and what it was worth.

    `best_chunks`: of a student that reads chunks, the characters [start, end) of the best one of each document; else
    empty.
    """

    system: str
    query_id: str
    query: str
    split: str
    doc_ids: list[str]  # best first
    scores: list[float]
    best_chunks: list[list[int]]
    ndcg_10: float
    mrr_10: float


class StudentScores(TypedDict):
    """The scores that a student gave one query's candidates, and `best_chunks` as of `Ranking`."""

    scores: list[float]
    best_chunks: list[list[int]]


class Exposure(TypedDict):
    """One page of results that the endpoint answered with. Times are seconds since 1970, UTC.

    `unit`: who saw it, a user or session id. `teams`: of an interleaved page, the variant that added each document;
    else empty, and `variant` says whose page it is.
    """

    request_id: str
    experiment: str  # the config's `name`
    unit: str
    variant: str  # empty: interleaved
    query: str
    doc_ids: list[str]  # as shown, best first
    teams: list[str]
    time: float
    model: str


class ClickEvent(TypedDict):
    """A click on a shown document. `event_id`: the sender's own, so that sending twice counts once.

    `doc_id` stood at `position` of the page; where several documents there have one id, the position says which.
    """

    event_id: str
    request_id: str
    doc_id: str
    position: int  # on the page, from 1
    dwell_s: float  # seconds until the user came back, at most a day; NaN: not known
    time: float


class Quarantined(TypedDict):
    """A bad input row: kept, counted, never dropped in silence."""

    stage: str
    id: str
    reason: str
    content: str


Row = Mapping[str, Any]  # a row of a table, as it is read

Split = Literal["train", "dev", "test", "unlabelled"]
SPLITS: tuple[str, ...] = get_args(Split)
MEASURED = ("dev", "test")  # the splits that a student is chosen and reported by

PER_DOCUMENT = ("texts", "scores", "targets", "missing", "confidence")  # one value for each of `doc_ids`

PER_DOCUMENT_OR_NONE = ("judge_scores", "reasons", "best_chunks")  # the same, or empty


def misfit(row: Row) -> str:
    """Return why a row of candidates, of the judge's output or of labels cannot be used, as `category: problem`: a
    value is null, the query or an id is empty, no document has a text, lists do not have the same length, a source's
    score is infinite, an output holds a document twice, or answers are not about the documents; empty if it can."""
    for name, value in row.items():
        lists = [value, *value] if name == "source_scores" and value else [value]
        if any(each is None or (isinstance(each, list) and None in each) for each in lists):
            return f"missing value: {name} is null, or holds nulls"
    for name in ("query_id", "query"):
        if not row[name].strip():
            return f"missing value: {name} is empty"
    if not all(map(str.strip, row["doc_ids"])):
        return "missing value: doc_ids holds an empty id"
    count = len(row["doc_ids"])
    if count and "texts" in row and not any(map(str.strip, row["texts"])):
        return "missing value: none of the texts has a word"
    for name in (*PER_DOCUMENT, *PER_DOCUMENT_OR_NONE):
        length = len(row[name]) if name in row else count
        if length != count and (length or name in PER_DOCUMENT):
            return f"ragged row: {length} {name} for {count} doc_ids"
    for source, scores in zip(row.get("sources", ()), row.get("source_scores", ())):
        if len(scores) != count:
            return f"ragged row: {len(scores)} scores of source {source!r} for {count} doc_ids"
        if any(map(math.isinf, scores)):
            return f"infinite score: source {source!r} gives one; NaN is for a document that it did not score"
    for names, values in (("sources", "source_scores"), ("qrel_ids", "qrel_grades")):
        if len(row.get(names, ())) != len(row.get(values, ())):
            return f"ragged row: {len(row[values])} {values} for {len(row[names])} {names}"
    names = row.get("sources", ())
    if len(set(names)) < len(names) or JUDGE in names:
        return f"ambiguous source: {', '.join(names)}; each needs a name of its own, and {JUDGE} is the teacher's"
    if ("shown" in row or "targets" in row) and len(set(row["doc_ids"])) < count:
        return "duplicate id: a document stands there twice"
    return _misfit_of_answers(row, count) if "task" in row else ""


def _misfit_of_answers(row: Row, count: int) -> str:
    """Return why the answers of a `JudgeOutput` row do not belong to its `count` documents; empty if they do."""
    if not all(map(math.isfinite, row["judge_scores"])):
        return "missing value: judge_scores holds what is no number"
    if row["task"] != "order":
        length = len(row["judge_scores"])
        return "" if length == count else f"ragged row: {length} judge_scores for {count} doc_ids"
    if len(row["responses"]) != len(row["shown"]):
        return f"ragged row: {len(row['responses'])} responses for {len(row['shown'])} orders shown"
    if len(cut := row.get("cut", ())) not in (0, len(row["responses"])):
        return f"ragged row: {len(cut)} values of cut for {len(row['responses'])} responses"
    repeated = any(len(set(order)) < len(order) for order in row["shown"])
    everything = {index for order in row["shown"] for index in order} == set(range(count))  # blocks show some each
    if repeated or ((count > 1 or row["shown"]) and not everything):
        return f"ragged row: what was shown are not orders of the {count} doc_ids"
    return ""


def without_repeats(row: Row) -> Row:
    """Return a row of candidates with each document, and each judged document, once: the first one counts."""
    changes: dict[str, Any] = {}
    first = _first_indices(row["doc_ids"])
    if len(first) < len(row["doc_ids"]):
        changes = {name: [row[name][index] for index in first] for name in ("doc_ids", "texts", "scores")}
        changes["source_scores"] = [[scores[index] for index in first] for scores in row["source_scores"]]
    first = _first_indices(row["qrel_ids"])
    if len(first) < len(row["qrel_ids"]):
        changes |= {name: [row[name][index] for index in first] for name in ("qrel_ids", "qrel_grades")}
    return {**row, **changes} if changes else row


def _first_indices(ids: Sequence[str]) -> list[int]:
    """Return the index of the first of each of the ids, ascending."""
    return sorted({each: index for index, each in reversed(list(enumerate(ids)))}.values())


def by_source(row: Row) -> dict[str, Sequence[float]]:
    """Return every source's scores of a row's documents, by name."""
    return dict(zip(row["sources"], row["source_scores"], strict=True))


def check_sources(row: Row, wanted: Iterable[str]) -> None:
    """Raise `ValueError` for a row that lacks one of the sources `wanted`; `SAME_SOURCES` is the remedy."""
    lacking = [name for name in wanted if name not in row["sources"]]
    if lacking:
        raise ValueError(f"query {row['query_id']!r} has no scores of {', '.join(lacking)}, which others have")


def check_same_query(row: Row, other: Row) -> None:
    """Raise `ValueError` for two rows of one query id that ask something else, but for case and white space: an id as
    `7` names another query in every collection."""
    asked, others = (unicodedata.normalize("NFKC", each["query"]).casefold().split() for each in (row, other))
    if asked != others:
        problem = (
            f"query {row['query_id']!r} asks {other['query'][:80]!r} there, and {row['query'][:80]!r} in the input"
        )
        raise InvalidInput(problem, "name a table of the same collection")


def without_relevant(rows: Sequence[Row], split: str = "dev") -> list[Row]:
    """Return the rows of a split that have judgments, none of which names a relevant document."""
    judged = [row for row in rows if row["split"] == split and row["qrel_grades"]]
    return [row for row in judged if max(row["qrel_grades"]) <= 0]


def with_qrels(rows: Sequence[Row], split: str = "dev") -> list[Row]:
    """Return the rows of a split that have a relevant document."""
    return [row for row in rows if row["split"] == split and any(grade > 0 for grade in row["qrel_grades"])]
