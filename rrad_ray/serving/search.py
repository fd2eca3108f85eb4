"""The search on a served collection: BM25 finds documents and a model re-ranks them; the page shows both orders.

`POST /v1/search` answers as a re-rank request does whose `documents` are what BM25 found, best first: `results` name
them by `index`. It adds what a reader asks then: where each stood, by how much it moved, and which words matched.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from rrad_ray.config import IDENTITY, SearchConfig
from rrad_ray.data.bm25 import BM25Index, top_k
from rrad_ray.data.reader import read_collection
from rrad_ray.evaluation.theme import render
from rrad_ray.serving import requests

EXAMPLE_QUERIES = 4  # queries of the collection that the page offers

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Hit:
    """A document that BM25 found. `matched`: words of the query and what each adds to the score; `marks`: where the
    text has one of them, as places of its characters from 0, end excluded."""

    doc_id: str
    text: str
    score: float
    matched: dict[str, float]
    marks: list[tuple[int, int]]


class Searcher:
    """A collection, in memory. Raises `RradError` if it cannot be read."""

    def __init__(self, cfg: SearchConfig) -> None:
        collection = read_collection(cfg.corpus)
        self.title, self.depth = cfg.title or collection.name, cfg.depth
        self.ids, self.texts = list(collection.corpus), list(collection.corpus.values())
        self.lexical = BM25Index(self.texts)
        tests = [query.text for query in collection.queries if query.split == "test"]
        self.examples = (tests or [query.text for query in collection.queries])[:EXAMPLE_QUERIES]
        if collection.rejected:
            count, reason = len(collection.rejected), collection.rejected[0][1]
            logger.warning(f"search: {count} rows of {cfg.corpus} cannot be used; the first: {reason}")

    def find(self, query: str) -> list[Hit]:
        """The best `depth` documents, best first; those that share no word with the query are none."""
        parts = self.lexical.parts(query)
        words: dict[str, str] = {}
        for stem, start, end in self.lexical.words(query):
            words.setdefault(stem, query[start:end].lower())
        hits = []
        for place in top_k(self.lexical.scores(query), self.depth):
            matched = {words.get(term, term): float(part[place]) for term, part in parts.items() if part[place] > 0}
            marks = [(start, end) for stem, start, end in self.lexical.words(self.texts[place]) if stem in parts]
            hits.append(Hit(self.ids[place], self.texts[place], sum(matched.values()), matched, marks))
        return hits


def rerank_request(asked: requests.ScoringRequest, hits: Sequence[Hit]) -> requests.ScoringRequest:
    """A search as a request to re-rank what was found. Of nothing, no model is asked and no page is shown."""
    if not hits:
        return dataclasses.replace(asked, model=IDENTITY, explain=False)
    texts, ids = [hit.text for hit in hits], [hit.doc_id for hit in hits]
    return dataclasses.replace(asked, queries=asked.queries * len(hits), texts=texts, doc_ids=ids)


def search_answer(content: dict[str, Any], hits: Sequence[Hit]) -> dict[str, Any]:
    """The answer to that request, with what the first stage found. Ranks count from 1; `moved`: places gained."""
    documents = [{"rank": rank, **dataclasses.asdict(hit)} for rank, hit in enumerate(hits, 1)]
    results = [
        {**result, "rank": rank, "moved": result["index"] + 1 - rank}
        for rank, result in enumerate(content["results"], 1)
    ]
    return {**content, "first_stage": "BM25", "documents": documents, "results": results}


@functools.lru_cache(maxsize=8)
def page_html(searcher: Searcher | None, test: str, explained: int, longest: int) -> tuple[str, dict[str, str]]:
    """The page and its headers: it may run its own script and style and talk to this endpoint, no more.

    `test`: the online test's name, if one runs. `explained`: how many documents at once it gives reasons for; 0: the
    model cannot write. `longest`: query, in characters.
    """
    style = Markup(render("style.css.j2") + render("search.css"))
    script = Markup(render("search.js")) if searcher else Markup("")
    facts = {"test": test, "explained": explained, "longest": longest}
    html = render("search.html.j2", searcher=searcher, style=style, script=script, **facts)
    allowed = f"default-src 'none'; connect-src 'self'; img-src data:; style-src {_hash(style)}; "
    allowed += f"script-src {_hash(script)}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    headers = {"Content-Security-Policy": allowed, "Referrer-Policy": "no-referrer"}
    return html, {**headers, "X-Content-Type-Options": "nosniff"}


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
