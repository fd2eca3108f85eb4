"""The type of a collection: documents, queries and qrels."""

from __future__ import annotations

from dataclasses import dataclass, field

from rrad_ray.data.qrels import Judged


@dataclass(frozen=True)
class Query:
    """A query with the grades of its judged documents. `split`: train | dev | test | unlabelled."""

    query_id: str
    text: str
    split: str
    judged: dict[str, int]


@dataclass
class Collection:
    """A collection's documents and queries, and its unusable rows: `rejected` holds (id or `file:line`, reason,
    content). `judged`: its qrels files."""

    name: str
    corpus: dict[str, str]  # doc_id -> text, below its title where it has one
    queries: list[Query]
    rejected: list[tuple[str, str, str]] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
