"""Queries that are made of documents' own sentences."""

from __future__ import annotations

import random

import pytest

from rrad_ray.config import RetrieveConfig
from rrad_ray.retrieval.document_queries import document_queries, first_sentence


@pytest.mark.parametrize(
    ("text", "query"),
    [
        (
            'writeBoolean\ndef writeBoolean(self, n):\n    """\n    Writes a Boolean to the stream.\n    """',
            "Writes a Boolean to the stream",
        ),
        ("Super Bowl 50\nThe Panthers gave up just 308 points.", "The Panthers gave up just 308 points"),
        ("x = 1\ny = 2", ""),
        ("", ""),
        (" ".join(map(str, range(40))), " ".join(map(str, range(16)))),
        ("黑豹队的防守只丢了 308分，在联赛中排名第六。他们也领先。", "黑豹队的防守只丢了 308分，在联赛中排名第六"),
        ("यह एक लंबा वाक्य है। यह दूसरा वाक्य है।", "यह एक लंबा वाक्य है"),
        ("یہ ایک لمبا جملہ ہے۔ یہ دوسرا جملہ ہے۔", "یہ ایک لمبا جملہ ہے"),
        ("토익은 시험의 한 종류이다.", "토익은 시험의 한 종류이다"),
    ],
)
def test_a_query_is_the_first_sentence_that_says_something(text: str, query: str) -> None:
    assert first_sentence(text) == query


def test_the_same_documents_are_drawn_whatever_their_order_and_ids_are_apart_from_other_queries() -> None:
    documents = [(f"d{number}", f"the text of document {number}") for number in range(50)]
    drawn = document_queries(documents, 7, 0)
    random.shuffle(documents)
    assert document_queries(documents, 7, 0) == drawn != document_queries(documents, 7, 1)
    assert len(drawn) == 7
    assert all(query.query_id.startswith("document:d") and query.split == "unlabelled" for query in drawn)
    assert len(document_queries(documents, 99, 0)) == 50


def test_a_run_has_no_candidates_for_queries_made_of_documents() -> None:
    with pytest.raises(ValueError, match=r"document_queries.*leave it at 0"):
        RetrieveConfig(data="in", output="out", run="a.run", document_queries=5)
