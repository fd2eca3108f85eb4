"""The search on a served collection: BM25 retrieves documents, a model re-ranks them, and the page shows both orders.

`POST /v1/search` answers as a re-rank request does whose `documents` are what BM25 retrieved, best first: `results`
name them by `index`. It adds what a reader wants to see then: each document's rank in both orders, how far it moved,
and which words matched.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from rrad_ray.config import IDENTITY, SearchConfig
from rrad_ray.data.reader import read_collection
from rrad_ray.errors import at_place
from rrad_ray.evaluation.theme import render_page, source_hash
from rrad_ray.languages.analyser import Term, united
from rrad_ray.rows import BM25
from rrad_ray.serving import requests

MAX_TERMS = 256  # of a query that BM25 reads: each costs a pass over the collection
EXAMPLE_QUERIES = 4  # queries of the collection that the page offers

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Hit:
    """A document that BM25 retrieved.

    `matched` maps words of the query to what each adds to the score. `marks` are the spans of the text that match one
    of them, in characters from 0, end excluded.
    """

    doc_id: str
    text: str
    score: float
    matched: dict[str, float]
    marks: list[tuple[int, int]]


class Searcher:
    """A collection in memory with its BM25 index. Raises `RradError` if it cannot be read."""

    def __init__(self, cfg: SearchConfig) -> None:
        from rrad_ray.data.bm25 import BM25Index  # it loads Numba, which takes 70 MiB

        collection = read_collection(cfg.corpus)
        self.title, self.depth = cfg.title or collection.name, cfg.depth
        self.ids, self.texts = list(collection.corpus), list(collection.corpus.values())
        with at_place("search.language", "write auto"):
            self.bm25 = BM25Index(self.texts, cfg.language)
        tests = [query.text for query in collection.queries if query.split == "test"]
        self.examples = (tests or [query.text for query in collection.queries])[:EXAMPLE_QUERIES]
        if collection.rejected:
            count, reason = len(collection.rejected), collection.rejected[0][1]
            logger.warning(f"search: {count} rows of {cfg.corpus} cannot be used; the first: {reason}")

    def retrieve(self, query: str) -> list[Hit]:
        """Return the `depth` best documents that share one of the query's first `MAX_TERMS` terms, best first."""
        terms = self.bm25.analyser.words(query)
        if len(terms) > MAX_TERMS:
            query, terms = query[: terms[MAX_TERMS].start], terms[:MAX_TERMS]
        best = self.bm25.best(query, self.depth)
        parts = self.bm25.parts(query, best)
        hits = []
        for row, index in enumerate(best):
            scores = {term: float(part[row]) for term, part in parts.items() if part[row] > 0}
            matched = by_words(query, terms, scores)
            marks = self.bm25.analyser.marks(query, self.texts[index])
            hits.append(Hit(self.ids[index], self.texts[index], sum(matched.values()), matched, marks))
        return hits


def by_words(query: str, terms: Sequence[Term], scores: dict[str, float]) -> dict[str, float]:
    """Return scores of terms as scores of the query's words: terms that overlap there count as one.

    A term that the query has several times counts at its first place.
    """
    first = {term.term: term for term in reversed(terms) if term.term in scores}
    words = dict[str, float]()
    for start, end in united((term.start, term.end) for term in first.values()):
        inside = sum(scores[name] for name, term in first.items() if start <= term.start < end)
        word = query[start:end].lower()
        words[word] = words.get(word, 0.0) + inside
    return words


def rerank_request(request: requests.ScoringRequest, hits: Sequence[Hit]) -> requests.ScoringRequest:
    """Return a search as the request to re-rank its hits; without hits no model is asked and no page is shown."""
    if not hits:
        return dataclasses.replace(request, model=IDENTITY, explain=False)
    texts, ids = [hit.text for hit in hits], [hit.doc_id for hit in hits]
    known = {BM25: [hit.score for hit in hits]}
    queries = request.queries * len(hits)
    return dataclasses.replace(request, queries=queries, texts=texts, doc_ids=ids, first_stage=known)


def search_answer(content: dict[str, Any], hits: Sequence[Hit]) -> dict[str, Any]:
    """Return the answer to a re-rank request of the hits, with the hits and how each of them moved.

    Ranks count from 1; `moved` is first-stage rank minus new rank, positive for a document that rose.
    """
    documents = [{"rank": rank, **dataclasses.asdict(hit)} for rank, hit in enumerate(hits, 1)]
    results = [
        {**result, "rank": rank, "moved": result["index"] + 1 - rank}
        for rank, result in enumerate(content["results"], 1)
    ]
    return {**content, "first_stage": "BM25", "documents": documents, "results": results}


@functools.lru_cache(maxsize=8)
def page_html(
    searcher: Searcher | None, test: str, explained: int, max_chars: int, locked: bool = False
) -> tuple[str, dict[str, str]]:
    """Return the page and its headers: it may run its own script and style and talk to this endpoint, no more.

    `test` is the online test's name, empty if none runs. `explained` is the number of documents that a search gets
    reasons for, 0 if the model cannot write. `max_chars` bounds a query, in characters. Who loads the page of a
    `locked` endpoint has shown no key: it says nothing of the collection.
    """
    style = Markup(render_page("style.css.j2") + render_page("search.css"))
    script = Markup(render_page("search.js")) if searcher else Markup("")
    facts = {"test": test, "explained": explained, "max_chars": max_chars, "locked": locked}
    html = render_page("search.html.j2", searcher=searcher, style=style, script=script, **facts)
    return html, _policy(style, script)


@functools.cache
def docs_html(schema: str) -> tuple[str, dict[str, str]]:
    """Return the page that lists the paths of an OpenAPI schema (JSON), and its headers: it runs nothing."""
    style = Markup(render_page("style.css.j2"))
    return render_page("docs.html.j2", style=style, **json.loads(schema)), _policy(style)


def _policy(style: str, script: str = "") -> dict[str, str]:
    """Return the header by which a page may run its own script and style and talk to this endpoint, no more."""
    policy = f"default-src 'none'; connect-src 'self'; img-src data:; style-src {source_hash(style)}; "
    policy += f"script-src {source_hash(script)}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    return {"Content-Security-Policy": policy}
