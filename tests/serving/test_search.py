"""The search on a served collection, without a server: hits, the request to re-rank them, the answer and the page."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tracemalloc
from pathlib import Path

import pytest

from rrad_ray.config import IDENTITY, SearchConfig
from rrad_ray.serving.requests import ScoringRequest
from rrad_ray.serving.search import (
    EXAMPLE_QUERIES,
    MAX_TERMS,
    Hit,
    Searcher,
    docs_html,
    page_html,
    rerank_request,
    search_answer,
)

CORPUS = {
    "open": "open(path) opens a file",
    "remove": "os.remove deletes one file, and a file only",
    "socket": "A socket connects two processes",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collection")
    corpus = [json.dumps({"_id": doc_id, "text": text}) for doc_id, text in CORPUS.items()]
    queries = [json.dumps({"_id": f"q{number}", "text": f"query {number}"}) for number in range(6)]
    (folder / "corpus.jsonl").write_text("\n".join(corpus))
    (folder / "queries.jsonl").write_text("\n".join(queries))
    return folder


@pytest.fixture(scope="module")
def searcher(folder: Path) -> Searcher:
    return Searcher(SearchConfig(str(folder), "our files"))


def test_hits_are_best_first_and_share_a_word_with_the_query(searcher: Searcher) -> None:
    hits = searcher.retrieve("open the files")
    assert [hit.doc_id for hit in hits] == ["open", "remove"]
    assert hits[0].score > hits[1].score > 0
    assert set(hits[0].matched) == {"open", "files"}, "in the query's own words"
    assert set(hits[1].matched) == {"files"}
    for hit in hits:
        assert hit.text == CORPUS[hit.doc_id]
        assert sum(hit.matched.values()) == pytest.approx(hit.score)
    assert [hits[1].text[start:end] for start, end in hits[1].marks] == ["file", "file"]
    assert searcher.retrieve("zebra") == searcher.retrieve("") == []


def test_a_query_of_very_many_words_holds_no_score_of_each_for_every_document(tmp_path: Path) -> None:
    words = [f"w{number}x" for number in range(1000)]
    texts = [{"_id": str(number), "text": " ".join(words[number % 7 :: 7])} for number in range(5000)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, texts)))
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "w1x"}))
    searcher = Searcher(SearchConfig(str(tmp_path)))
    tracemalloc.start()
    hits = searcher.retrieve(" ".join(words))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(hits) == 20
    assert {word for hit in hits for word in hit.matched} <= set(words[:MAX_TERMS])
    assert searcher.retrieve(" ".join(words[:MAX_TERMS])) == hits, "what stands behind is not read"
    assert peak < 4 * 5000 * 50, "1,000 terms x 5,000 documents x 4 bytes are 20 MB"


def test_no_more_hits_than_the_depth(folder: Path) -> None:
    assert [hit.doc_id for hit in Searcher(SearchConfig(str(folder), depth=1)).retrieve("open the files")] == ["open"]


def test_the_page_offers_some_queries_of_the_collection_under_its_title(folder: Path, searcher: Searcher) -> None:
    assert searcher.examples == [f"query {number}" for number in range(EXAMPLE_QUERIES)]
    assert searcher.title == "our files"
    assert Searcher(SearchConfig(str(folder))).title == folder.name


def hit(doc_id: str) -> Hit:
    return Hit(doc_id, f"text of {doc_id}", 1.0, {"word": 1.0}, [(0, 4)])


def test_a_search_becomes_a_request_to_re_rank_its_hits() -> None:
    request = ScoringRequest(["q"], [], model="small", top_n=1, explain=True, unit="u")
    reranked = rerank_request(request, [hit("a"), hit("b")])
    assert (reranked.queries, reranked.texts, reranked.doc_ids) == (
        ["q", "q"],
        ["text of a", "text of b"],
        ["a", "b"],
    )
    assert (reranked.model, reranked.top_n, reranked.explain, reranked.unit) == ("small", 1, True, "u")
    assert reranked.first_stage == {"bm25": [1.0, 1.0]}
    empty = rerank_request(request, [])
    assert (empty.model, empty.explain, empty.texts) == (IDENTITY, False, []), "no model is asked"


def test_the_answer_says_where_each_document_stood_and_how_far_it_moved() -> None:
    results = [{"index": 2, "relevance_score": 0.9}, {"index": 1, "relevance_score": 0.4}]
    answer = search_answer({"id": "x", "results": results}, [hit("a"), hit("b"), hit("c")])
    assert (answer["id"], answer["first_stage"]) == ("x", "BM25")
    assert answer["results"] == [
        {"index": 2, "relevance_score": 0.9, "rank": 1, "moved": 2},
        {"index": 1, "relevance_score": 0.4, "rank": 2, "moved": 0},
    ]
    assert [(document["rank"], document["doc_id"]) for document in answer["documents"]] == [
        (1, "a"),
        (2, "b"),
        (3, "c"),
    ]
    assert set(answer["documents"][0]) == {"rank", "doc_id", "text", "score", "matched", "marks"}


def test_the_page_may_run_its_own_script_and_style_alone(searcher: Searcher) -> None:
    html, headers = page_html(searcher, "a test", 3, 100)
    for attribute in ('maxlength="100"', 'data-test="a test"', 'data-explained="3"'):
        assert attribute in html
    policy = headers["Content-Security-Policy"]
    for tag in ("script", "style"):
        [content] = re.findall(rf"(?s)<{tag}>(.*?)</{tag}>", html)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in page_html(None, "", 0, 100)[0]


def test_the_page_of_a_locked_endpoint_says_nothing_of_the_collection(searcher: Searcher) -> None:
    html, _ = page_html(searcher, "a test", 3, 100, locked=True)
    for fact in ("our files", "3 documents", "query 0"):
        assert fact in page_html(searcher, "a test", 3, 100)[0]
        assert fact not in html


def test_markup_in_a_title_or_a_query_of_the_collection_is_text(folder: Path) -> None:
    evil = Searcher(SearchConfig(str(folder), "<img src=x onerror=alert(1)>"))
    evil.examples = [evil.title]
    html, _ = page_html(evil, "a test", 3, 100)
    assert "<img" not in html
    assert html.count("&lt;img src=x") == 3, "the page's title, its heading and the example"


def test_the_page_of_paths_lists_all_of_them_and_runs_nothing() -> None:
    operation = {"description": "Scores <b>documents</b>."}
    schema = {"info": {"title": "rrad-ray", "description": "ours"}, "paths": {"/score": {"post": operation}}}
    html, headers = docs_html(json.dumps(schema))
    assert "POST /score</code></td><td>Scores &lt;b&gt;documents" in html
    assert "<script" not in html
    assert "://" not in html, "nothing comes from elsewhere"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
