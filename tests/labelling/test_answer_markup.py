"""Answers that are data: pairs, Python literals, CSV, XML with what is nested in it, HTML tables."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.labelling.answers import parse_answer

XML_LEAVES = (
    "<ranking><passage><id>1</id><score>2</score></passage><passage><id>2</id><score>9</score></passage>"
    "<passage><id>3</id><score>5</score></passage></ranking>"
)
XML_ITEMS = (
    '<ranking><item rank="1"><doc>[2]</doc></item><item rank="2"><doc>[3]</doc></item>'
    '<item rank="3"><doc>[1]</doc></item></ranking>'
)
XML_DEEP = (
    '<document id="1"><relevance><value>2</value></relevance></document>'
    '<document id="2"><relevance><value>9</value></relevance></document>'
    '<document id="3"><relevance><value>5</value></relevance></document>'
)
HTML = (
    "<table><tr><th>ID</th><th>Score</th></tr><tr><td>[1]</td><td>2</td></tr>"
    "<tr><td>[2]</td><td>9</td></tr><tr><td>[3]</td><td><b>5</b></td></tr></table>"
)
NOT_UNDERSTOOD = "rejected: verdicts that are not understood"


@pytest.mark.parametrize(
    ("answer", "repair"),
    [
        ("[[1, 0.2], [2, 0.9], [3, 0.5]]", "JSON"),
        ('[["[1]", 0.2], ["[2]", 0.9], ["[3]", 0.5]]', "JSON"),
        ("[[0.2, 1], [0.9, 2], [0.5, 3]]", "JSON"),
        ("[[1, 2], [2, 9], [3, 5]]", "JSON"),
        ('{"scores": [[1, 0.2], [2, 0.9], [3, 0.5]]}', "JSON"),
        ("[(1, 0.2), (2, 0.9), (3, 0.5)]", "JSON"),
        ("{'1': 0.2, '2': 0.9, '3': 0.5}", "JSON"),
        ("scores = {1: 0.2, 2: 0.9, 3: 0.5}", "JSON"),
        ("Here: [{'id': 1, 'score': 0.2}, {'id': 2, 'score': 0.9}, {'id': 3, 'score': 0.5, 'note': None}]", "JSON"),
        ('{"[1]": {"rank": 3}, "[2]": {"rank": 1}, "[3]": {"rank": 2}}', "JSON"),
        ('{"ranking_worst_to_best": [1, 3, 2]}', "JSON"),
        ('{"leastRelevantFirst": ["[1]", "[3]", "[2]"]}', "JSON"),
        ("id,rank\n1,3\n2,1\n3,2", "table"),
        ("rank,id\n3,1\n1,2\n2,3\n\nThat is all.", "table"),
        ("passage;rank\n1;3\n2;1\n3;2", "table"),
        ("id\tscore\n1\t2\n2\t9\n3\t5", "table"),
        ('```csv\nid,rank,reason\n[1],3,"off topic, mostly"\n[2],1,exact\n[3],2,"a ""part"""\n```', "table"),
        (XML_LEAVES, "XML"),
        (XML_ITEMS, "XML"),
        (XML_DEEP, "XML"),
        ('<r id="1"><score>2</score>\n<r id="2"><score>9</score>\n<r id="3"><score>5</score>', "XML"),
        (HTML, "table"),
        (XML_LEAVES.replace("<score>2</score>", "<score><![CDATA[2]]></score>"), "XML"),
        (XML_LEAVES.replace("<", "<r:").replace("<r:/", "</r:"), "XML"),
        ("<d id='1' score='2'/><d id='2' score='9'/><d id='3' score='5'/>", "XML"),
        ('[{"id": 1, "score": "0,2"}, {"id": 2, "score": "0,9"}, {"id": 3, "score": "0,5"}]', "JSON"),
    ],
)
def test_what_is_said_of_identifiers_orders_them(answer: str, repair: str) -> None:
    order = parse_answer(answer, 3)
    assert (order.ranked, order.status) == ((1, 2, 0), f"repaired: {repair}")


@pytest.mark.parametrize(
    "answer",
    [
        "[[1, 3], [2, 1], [3, 2]]",  # ranks or scores
        '{"order": "ascending", "ranking": [1, 3, 2]}',
        '{"ranking_worst_to_best": "[1] > [3] > [2]"}',
    ],
)
def test_data_that_may_mean_either_order_is_none(answer: str) -> None:
    assert parse_answer(answer, 3).status == NOT_UNDERSTOOD


def test_groups_of_two_are_no_pairs_with_scores() -> None:
    assert parse_answer("[[3, 1], [2, 4]]", 4).ranked == (2, 0, 1, 3)
    assert parse_answer('{"query": "sort ascending", "ranking": [2, 1]}', 2).ranked == (1, 0)


FORMS: dict[str, Callable[[list[tuple[int, float]]], str]] = {
    "pairs": lambda scored: str([[number, score] for number, score in scored]),
    "tuples": lambda scored: str(scored),
    "dict": lambda scored: str(dict(scored)),
    "records": lambda scored: str([{"id": number, "score": score} for number, score in scored]),
    "csv": lambda scored: "\n".join(["passage, score", *(f"[{number}], {score}" for number, score in scored)]),
    "xml": lambda scored: "".join(f"<p><id>{number}</id><score>{score}</score></p>" for number, score in scored),
    "html": lambda scored: (
        "<table><tr><th>id</th><th>score</th></tr>"
        + "".join(f"<tr><td>{number}</td><td>{score}</td></tr>" for number, score in scored)
        + "</table>"
    ),
}


@given(
    order=st.integers(2, 20).flatmap(lambda n: st.permutations(range(1, n + 1))), form=st.sampled_from(list(FORMS))
)
def test_scores_in_every_form_give_their_order(order: list[int], form: str) -> None:
    scored = [(number, (len(order) - order.index(number)) / 100) for number in range(1, len(order) + 1)]
    parsed = parse_answer(FORMS[form](scored), len(order))
    assert [index + 1 for index in parsed.ranked] == order, FORMS[form](scored)
