"""The forms in which models write an order, in several languages: each is read as what its writer meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rrad_ray.labelling.answers import parse_answer

ORDERS: list[tuple[str, int, list[int] | None]] = [
    ("The correct order is [2] > [1] > [3]. [3] is off-topic because [1] covers it.", 3, [2, 1, 3]),
    ("**Final Answer**\n\n[3] > [1] > [2]\n\n**Reasoning**: [1] mentions, [2] does not answer.", 3, [3, 1, 2]),
    ("Ranking:\n1. [3] - Directly answers.\n2. [1] - Partially.\n3. [2] - Not relevant.", 3, [3, 1, 2]),
    ("### Ranking\n\n1. **[3]** – best\n2. **[1]** – ok\n\n### Not relevant\n\n- [2]\n", 3, [3, 1]),
    ("排名：[3] > [1] > [2]", 3, [3, 1, 2]),
    ("[1] 讲的是猫。[2] 讲的是狗。[3] 直接回答了问题。\n\n最终排名：[3] > [1] > [2]", 3, [3, 1, 2]),
    ("[1]은 관련 없음. [2]는 부분적으로.\n순위: [3] > [2] > [1]", 3, [3, 2, 1]),
    ("[1]は関係がない。\n順位：[3] > [2] > [1]", 3, [3, 2, 1]),
    ("<thinking>a [1]</thinking>\n\n[2] > [1] > [3]", 3, [2, 1, 3]),
    ("[THINK]x [1] > [2][/THINK][2] > [1]", 2, [2, 1]),
    ("◁think▷[1] ..◁/think▷[2] > [1]", 2, [2, 1]),
    ("<|START_THINKING|>[1]<|END_THINKING|><|START_RESPONSE|>[2] > [1]<|END_RESPONSE|>", 2, [2, 1]),
    ("<analysis>[1] bad</analysis>\n<ranking>[2] > [1]</ranking>", 2, [2, 1]),
    ("Least relevant to most relevant: [1], [2], [3]", 3, [3, 2, 1]),
    ("1st: [3]; 2nd: [2]; last: [1]", 3, [3, 2, 1]),
    ("Rank 1: [3]\nRank 2: [2]\nLast place: [1]", 3, [3, 2, 1]),
    ("Most relevant: [3]\nLeast relevant: [1]\nIn between: [2]", 3, [3, 2, 1]),
    ("Bottom: [1]; middle: [2]; top: [3]", 3, [3, 2, 1]),
    ("[3] is at the top, [2] in the middle, [1] at the bottom", 3, [3, 2, 1]),
    ("最相关: [3]\n最不相关: [1]\n中间: [2]", 3, [3, 2, 1]),
    ("Best match: [3]. Worst match: [1]. The other: [2].", 3, None),
    ("[1] ≺ [2] ≺ [3]", 3, [3, 2, 1]),
    ("[1] < [2] = [3]", 3, [2, 3, 1]),
    ("[4-6] > [1-3]", 6, [4, 5, 6, 1, 2, 3]),
    ("[4] > [1] to [3]", 4, [4, 1, 2, 3]),
    ("[4] > [1]~[3]", 4, [4, 1, 2, 3]),
    ("| Rank | Passage |\n|---|---|\n| 1 | [3] |\n| 2 | [1] |\n| 3 | [2] |", 3, [3, 1, 2]),
    ("| Rank | Passage |\n|---|---|\n| 1 | 3 |\n| 2 | 1 |\n| 3 | 2 |", 3, [3, 1, 2]),
    ("| Passage | Score |\n|---|---|\n| 1 | 3 |\n| 2 | 10 |\n| 3 | 7 |", 3, [2, 3, 1]),
    ("| Passage | Relevance |\n|:--|--:|\n| [1] | Low |\n| [2] | High |\n\nFinal: [2] > [1]", 2, [2, 1]),
    ('{"ranking": "[3] > [1] > [2]"}', 3, [3, 1, 2]),
    ('{"1": 0.2, "2": 0.9, "3": 0.5}', 3, [2, 3, 1]),
    ('{"[1]": 2, "[2]": 9, "[3]": 5}', 3, [2, 3, 1]),
    ('[{"passage": "[3]", "rank": 2}, {"passage": "[1]", "rank": 1}]', 3, [1, 3]),
    (
        '{"results":[{"index":0,"relevance_score":0.1},{"index":2,"relevance_score":0.9},{"index":1,"relevance_score":0.5}]}',
        3,
        [3, 2, 1],
    ),
    ('{"id":3,"score":1}\n{"id":1,"score":9}\n{"id":2,"score":5}', 3, [1, 2, 3]),
    ('{"relevant":[4,3],"not_relevant":[1,2]}', 4, [4, 3]),
    ("{'ranking': [3, 1, 2]}", 3, [3, 1, 2]),
    ('{"ranking": [3, 1, 2', 3, [3, 1]),
    ("3、1、2", 3, [3, 1, 2]),
    ("3 1 2", 3, [3, 1, 2]),
    ("3;1;2", 3, [3, 1, 2]),
    ("3 | 1 | 2", 3, [3, 1, 2]),
    ("3\n1\n2", 3, [3, 1, 2]),
    ("3 >> 1 >> 2", 3, [3, 1, 2]),
    ("3 -> 1 -> 2", 3, [3, 1, 2]),
    ("3 – 1 – 2", 3, [3, 1, 2]),
    ("3 < 1 < 2", 3, [2, 1, 3]),
    ("* 3\n* 1\n* 2", 3, [3, 1, 2]),
    ("• [3]\n• [1]\n• [2]", 3, [3, 1, 2]),
    ("1. 3\n2. 1\n3. 2", 3, [3, 1, 2]),
    ("Rank 1: Passage 3\nRank 2: Passage 1\nRank 3: Passage 2", 3, [3, 1, 2]),
    ("Rank 2: 3\nRank 1: 1\nRank 3: 2", 3, [1, 3, 2]),
    ("1st: [3]\n2nd: [1]\n3rd: [2]", 3, [3, 1, 2]),
    ("1위: 문서 3\n2위: 문서 1\n3위: 문서 2", 3, [3, 1, 2]),
    ("第1位：文書3\n第2位：文書1\n第3位：文書2", 3, [3, 1, 2]),
    ("第一名：[3]\n第二名：[1]\n第三名：[2]", 3, [3, 1, 2]),
    ("문서3 > 문서1 > 문서2", 3, [3, 1, 2]),
    ("文書3 > 文書1 > 文書2", 3, [3, 1, 2]),
    ("ドキュメント3＞ドキュメント1＞ドキュメント2", 3, [3, 1, 2]),
    ("3번 > 1번 > 2번", 3, [3, 1, 2]),
    ("第3篇 > 第1篇 > 第2篇", 3, [3, 1, 2]),
    ("Passage 3, Passage 1, Passage 2", 3, [3, 1, 2]),
    ("Documents 3, 1 and 2, in that order.", 3, None),
    ("Doc 1: 3/10\nDoc 2: 9/10\nDoc 3: 5/10", 3, [2, 3, 1]),
    ("[1]: 0.2\n[2]: 0.9\n[3]: 0.5", 3, [2, 3, 1]),
    ("[1] (score: 2)\n[2] (score: 9)\n[3] (score: 5)", 3, [2, 3, 1]),
    ("[2] (9/10) > [3] (5/10) > [1] (2/10)", 3, [2, 3, 1]),
    ("[2] (relevance 9), [3] (relevance 5), [1] (relevance 2)", 3, [2, 3, 1]),
    ("① [3]\n② [1]\n③ [2]", 3, [3, 1, 2]),
    ("③ > ① > ②", 3, [3, 1, 2]),
    ("(3) > (1) > (2)", 3, [3, 1, 2]),
    ("$[3] \\succ [1] \\succ [2]$", 3, [3, 1, 2]),
    ("\\boxed{3, 1, 2}", 3, [3, 1, 2]),
    ("\\[3\\] > \\[1\\] > \\[2\\]", 3, [3, 1, 2]),
    ("For example, [1] > [2] would mean [1] is better. Here: [3] > [2] > [1]", 3, [3, 2, 1]),
    ("The format [1] > [2] > [3] will be used.\n\n[3] > [1] > [2]", 3, [3, 1, 2]),
    ("First I thought [1] > [2] > [3], but on reflection [2] > [3] > [1].", 3, [2, 3, 1]),
    ("[3] > [1] > [2]\n\nExplanation:\n- [3]: answers\n- [1]: partly\n- [2]: off-topic", 3, [3, 1, 2]),
    (
        "[3] > [1] > [2]. I think this order is right because it puts the answer first and the rest after.",
        3,
        [3, 1, 2],
    ),
    (
        "[1] > [2] > [3]. I think this order is right because it puts the answer first and the rest after it.",
        3,
        [1, 2, 3],
    ),
    ("Relevant: [3], [1]\nIrrelevant: [2], [4]", 4, [3, 1]),
    ("Irrelevant: [2], [4]\nRelevant: [3], [1]", 4, [3, 1]),
    ("Highly relevant: [3], [4]\nPartially relevant: [1]\nNot relevant: [2]", 4, [3, 4, 1]),
    ("Relevant: [3] > [1]\nLess relevant: [4] > [2]", 4, [3, 1, 4, 2]),
    ("".join(f"[{k}]\n\nThe most relevant passage is {k}.\n\n" for k in (1, 2, 3)) + "[4]", 5, None),
    ("| Passage | Score (0-10) |\n|---|---|\n| [1] | 2 |\n| [2] | 9 |\n| [3] | 5 |", 3, [2, 3, 1]),
    ("| Passage | Relevance (out of 10) |\n|---|---|\n| [1] | 2 |\n| [2] | 9 |\n| [3] | 5 |", 3, [2, 3, 1]),
    ("| [1] | 2/10 |\n| [2] | 9/10 |\n| [3] | 5/10 |", 3, [2, 3, 1]),
    ("- [1]: Low relevance\n- [2]: High relevance\n- [3]: Medium relevance", 3, [2, 3, 1]),
    ("[1]: not relevant\n[2]: highly relevant\n[3]: somewhat relevant", 3, [2, 3, 1]),
    ("| Passage | Relevance |\n|---|---|\n| [1] | Low |\n| [2] | High |\n| [3] | Medium |", 3, [2, 3, 1]),
    ("[1]: 3 stars\n[2]: 5 stars\n[3]: 1 star", 3, [2, 1, 3]),
    ("| Passage | Rating |\n|---|---|\n| [1] | 2 stars |\n| [2] | 5 stars |\n| [3] | 3 stars |", 3, [2, 3, 1]),
    ("1st: [2], 2nd: [3], 3rd: [1]", 3, [2, 3, 1]),
    ("[1] (rank 3), [2] (rank 1), [3] (rank 2)", 3, [2, 3, 1]),
    ("Passage 3 (rank 1), Passage 1 (rank 2), Passage 2 (rank 3)", 3, [3, 1, 2]),
    ("[1] = 3rd\n[2] = 1st\n[3] = 2nd", 3, [2, 3, 1]),
    ("Initial ranking: [1] > [2] > [3]\nAfter reconsidering: [3] > [2] > [1]", 3, [3, 2, 1]),
    ("Initial order: [1] > [2] > [3]\nRevised order: [3] > [2] > [1]", 3, [3, 2, 1]),
    ("Ranking (least relevant first): [1] > [3] > [2]", 3, None),
    ("[1]: 높음\n[2]: 낮음\n[3]: 중간", 3, [1, 3, 2]),
    ("[1]：低\n[2]：高\n[3]：中", 3, [2, 3, 1]),
    ("[1]: Highly relevant because it answers\n[2]: Not relevant\n[3]: Partially relevant, mentions", 3, [1, 3, 2]),
    ("None of the passages are relevant.", 3, None),
    ("[]", 3, None),
    ("{}", 3, None),
    ("I'm sorry, I can't rank [1], [2] and [3] without more context, could you tell me more about it?", 3, None),
    ("[3]>[1]>[2]", 3, [3, 1, 2]),
    ("[3], [1], [2]", 3, [3, 1, 2]),
    ("[3][1][2]", 3, [3, 1, 2]),
    ("[03] > [01]", 3, [3, 1]),
    ("[3] > [1] > [2]<|im_end|>\n<|im_start|>user\n[1] > [2] > [3]", 3, [3, 1, 2]),
    ("```\n[3] > [1] > [2]\n```", 3, [3, 1, 2]),
    ("Answer: 3 > 1 > 2", 3, [3, 1, 2]),
    ("The answer is 3, 1, 2.", 3, [3, 1, 2]),
    ("[Passage 3] > [Passage 1]", 3, [3, 1]),
    ("[ID 3] > [ID: 1]", 3, [3, 1]),
    ("<ol><li>[3]</li><li>[1]</li></ol>", 3, [3, 1]),
]


@pytest.mark.parametrize(("answer", "documents", "order"), ORDERS)
def test_a_form_of_answer_is_read_as_the_order_it_means(answer: str, documents: int, order: list[int] | None) -> None:
    parsed = parse_answer(answer, documents)
    assert ([index + 1 for index in parsed.ranked] or None) == order, parsed.status


def test_the_answers_from_the_field_are_read_right() -> None:
    cases = Path(__file__).parents[2].parent / "shared" / "cases" / "answers.jsonl"
    if not cases.exists():
        pytest.skip("the answers from the field are not here")
    for line in cases.read_text().splitlines():
        case = json.loads(line)
        parsed = parse_answer(case["answer"], case["documents"])
        assert ([index + 1 for index in parsed.ranked] or None) == case["want"], (case["name"], parsed.status)


@pytest.mark.parametrize(
    ("answer", "order"),
    [
        ("[3] 1/3\n[1] 2/3\n[2] 3/3", []),
        ("[3] (1 of 3)\n[1] (2 of 3)\n[2] (3 of 3)", []),
        ("| [3] | 1/3 |\n| [1] | 2/3 |\n| [2] | 3/3 |", []),
        ("[3] 1/2\n[1] 2/2", []),
        ("(1/3) [3]\n(2/3) [1]\n(3/3) [2]", [3, 1, 2]),
        ("1/3: [3]\n2/3: [1]\n3/3: [2]", [3, 1, 2]),
        ("[3] rank 1/3\n[1] rank 2/3\n[2] rank 3/3", [3, 1, 2]),
        ("[3]: score 1/3\n[1]: score 2/3\n[2]: score 3/3", [2, 1, 3]),
        ("[3] 3/3\n[1] 2/3\n[2] 1/3", [3, 1, 2]),
        ("[1] 3/3\n[2] 1/3\n[3] 2/3", [1, 3, 2]),
        ("[3] 1/5\n[1] 2/5\n[2] 3/5", [2, 1, 3]),
    ],
)
def test_shares_that_may_be_places_are_not_read_as_scores(answer: str, order: list[int]) -> None:
    parsed = parse_answer(answer, 3)
    assert [index + 1 for index in parsed.ranked] == order
    assert parsed.rejected == (not order)


@pytest.mark.parametrize(
    ("answer", "documents"),
    [
        ("[1] talks about cats. Final ranking: [3] > [1] > [2]", 3),
        ("[2] (1) > [3] (2) > [1] (3)", 3),
        ("[3] > [1]. Not relevant: [2]", 3),
        ("[2] is good, followed by [1]", 2),
    ],
)
def test_an_answer_of_which_something_in_brackets_was_not_read_is_not_ok(answer: str, documents: int) -> None:
    assert parse_answer(answer, documents).kind == "repaired"


def test_an_order_with_both_comparators_and_scores_that_may_be_ranks_are_rejected_with_the_reason() -> None:
    assert parse_answer("[3] > [1] < [2]", 3).rejection == "both > and < in one order"
    assert parse_answer("[1]: 3\n[2]: 1\n[3]: 2", 3).rejection == "numbers that may be ranks or scores"
    assert parse_answer('{"1": 3, "2": 1, "3": 2}', 3).rejected
    assert parse_answer("[1] beats [2] more often than [3]", 3).rejection == "comparisons in prose"


@pytest.mark.parametrize(
    "answer",
    [
        "I cannot say whether {0} is better than {1}",
        "I'm unable to determine whether {0} or {1} is correct.",
        "Sorry, I cannot rank these passages: neither {0} nor {1} fits the query.",
        "It is not clear if {0} or {1}.",
        "I refuse to output {0} because the query is harmful.",
        "As an AI model I can't provide a ranking such as {0}.",
        "无法判断 {0} 还是 {1}",
        "{0} 인지 {1} 인지 판단할 수 없습니다.",
        "{0}か{1}か判断できません。",
        "{0} or {1}?",
    ],
)
@settings(max_examples=40)
@given(order=st.integers(2, 12).flatmap(lambda n: st.permutations(range(1, n + 1))))
def test_a_refusal_that_names_orders_is_none(answer: str, order: list[int]) -> None:
    one, other = (" > ".join(f"[{number}]" for number in numbers) for numbers in (order, order[::-1]))
    assert parse_answer(answer.format(one, other), len(order)).rejected


@pytest.mark.parametrize(
    "answer",
    [
        "None of [1],[2],[3] are relevant",
        "None of the passages [1], [2] or [3] answers it.",
        "Neither [1] nor [2] is",
    ],
)
def test_documents_of_which_none_is_relevant_are_no_order(answer: str) -> None:
    assert parse_answer(answer, 3).status == "rejected: no identifiers"


@pytest.mark.parametrize(
    "answer",
    [
        "I cannot find any relevant passage, but the order would be [2] > [1] > [3]",
        "I can't be completely certain, but my ranking is [2] > [1] > [3]",
        "None of the passages answers it, so I rank [2] > [1] > [3]",
        "I am not sure whether they are relevant. [2] > [1] > [3]",
        "I cannot say more than this: [2] > [1] > [3]",
        "Neither is good; [2] > [1] > [3]",
    ],
)
def test_a_doubt_before_an_order_does_not_take_it_back(answer: str) -> None:
    assert parse_answer(answer, 3).ranked == (1, 0, 2)


@pytest.mark.parametrize(
    "answer",
    [
        "Final ranking: [1] > [2] > [3]\nCorrection: [3] > [2] > [1]",
        "Final: 1 > 2 > 3. Correction: 3 > 2 > 1",
        "Final ranking: [1] > [2] > [3]\n\nWait, I made a mistake.\n\n[3] > [2] > [1]",
        "最终排名：[1] > [2] > [3]\n更正：[3] > [2] > [1]",
    ],
)
def test_an_order_that_corrects_the_one_before_it_counts(answer: str) -> None:
    assert parse_answer(answer, 3).ranked == (2, 1, 0)


@pytest.mark.parametrize(
    ("answer", "ranked"),
    [
        ("[3] > [1]\n[1] > [2]\n[3] > [2]", (2, 0, 1)),
        ("[1] > [2]. [3] > [1].", (2, 0, 1)),
        ("[\u200b3\u200b] > [1\u2060] > [2]", (2, 0, 1)),
        ("[1]: 0,2\n[2]: 0,9\n[3]: 0,5", (1, 2, 0)),
        ("[3] > [1] > [2]\n\nNote: no need to wait. [1] > [2] is arguable.", (2, 0, 1)),
        ("Final ranking: [3] > [1] > [2]. Actually [1] > [3] in some cases.", (2, 0, 1)),
    ],
)
def test_pairs_join_to_one_order_and_remarks_and_invisible_letters_change_none(
    answer: str, ranked: tuple[int, ...]
) -> None:
    assert parse_answer(answer, 3).ranked == ranked


@pytest.mark.parametrize("answer", ["[3] > [1]\n[1] > [2]\n[2] > [3]", "[3] > [1]\n[3] > [2]"])
def test_pairs_that_leave_the_order_open_are_none(answer: str) -> None:
    assert parse_answer(answer, 3).status == "rejected: orders that are not one"


PLACED = ["[3]", "[1]", "[2]"]
COUNTS = [
    "Tier",
    "Level",
    "Choice",
    "Result",
    "Answer",
    "Order",
    "Группа",
    "Posición",
    "Pick",
    "Rank",
    "Platz",
    "등급",
    "Top",
]


@pytest.mark.parametrize("separator", ["; ", ", ", "\n", " | ", ". "])
@pytest.mark.parametrize("mark", [": ", " = ", " - ", " "])
@pytest.mark.parametrize("word", COUNTS)
def test_lists_whose_labels_count_are_places_on_one_line_and_on_lines(word: str, mark: str, separator: str) -> None:
    text = separator.join(f"{word} {place}{mark}{document}" for place, document in enumerate(PLACED, 1))
    parsed = parse_answer(text, 3)
    assert parsed.ranked == (2, 0, 1), parsed.status


@pytest.mark.parametrize(
    ("answer", "order"),
    [
        ("Tier 1: [3]; Tier 2: [1], [2]", [3, 1, 2]),
        ("Tier 1: [3], [1]; Tier 2: [2]", [3, 1, 2]),
        ("The tiers are: Tier 1: [3], [1]; Tier 2: [2]", [3, 1, 2]),
        ("1er: [3], 2e: [1], 3e: [2]", [3, 1, 2]),
        ("第1位: [3]、第2位: [1]、第3位: [2]", [3, 1, 2]),
        ("1순위: [3], 2순위: [1], 3순위: [2]", [3, 1, 2]),
        ("1st: [3], [1]; 2nd: [2]", [3, 1, 2]),
        ("Rank 1: [3] and [1]; Rank 2: [2]", [3, 1, 2]),
        ("[3], [1]: 1st; [2]: 2nd", [3, 1, 2]),
        ("1st: [2]. [1] is not relevant", None),
        ("A: [3]; B: [1]; C: [2]", [3, 1, 2]),
        ("Tier S: [3]; Tier A: [1]; Tier B: [2]", [3, 1, 2]),
        ("Highly relevant: [3]; partly relevant: [1]; irrelevant: [2]", [3, 1]),
        ("Rank 1: Document 3; Rank 2: Document 1; Rank 3: Document 2", [3, 1, 2]),
        ("Platz 2: [1]; Platz 1: [3]; Platz 3: [2]", [3, 1, 2]),
        ("Platz 1 (nicht relevant): [2]\nPlatz 3: [1]\nPlatz 2: [3]", [3, 1]),
        ("Tier 1 (worst): [3]; Tier 2: [1]; Tier 3 (best): [2]", [2, 1, 3]),
        ("From least to most relevant:\nTier 1: [3]\nTier 2: [1]\nTier 3: [2]", [2, 1, 3]),
        ("Tier 3: [2]; Tier 2: [1]; Tier 1: [3]", None),
        ("Score 1: [3]; Score 2: [1]; Score 3: [2]", None),
        ("Document 1: [3]; Document 2: [1]; Document 3: [2]", None),
        ("Rank 1 (most relevant): [3] with score 9\nRank 2: [1] with score 7\nRank 3: [2] with score 1", [3, 1, 2]),
        ("**Rank 1 (highest relevance):** [3] 0.95\n**Rank 2:** [1] 0.6\n**Rank 3:** [2] 0.1", [3, 1, 2]),
        ("1 (best): [3]\n2: [1]\n3 (worst): [2]", [3, 1, 2]),
        ("1 (worst): [2]\n2: [1]\n3 (best): [3]", [3, 1, 2]),
        ("[3] is Rank 1; [1] is Rank 2; [2] is Rank 3", [3, 1, 2]),
        ("[1] is ranked 2, [3] is ranked 1, [2] is ranked 3", [3, 1, 2]),
        ("Best: [3], 2nd: [1], 3rd: [2]", [3, 1, 2]),
        ("The winner is here. 2nd: [1], 3rd: [2]", None),
        ("Most relevant: [3] (9/10)\n[1] (7/10)\n[2] (2/10)", None),
        ("(1) Document 3\n(2) Document 1\n(3) Document 2", [3, 1, 2]),
        ("(1) Passage 3 (score 9)\n(2) Passage 1 (score 7)\n(3) Passage 2 (score 4)", [3, 1, 2]),
        ("(3) > (1) > (2)", [3, 1, 2]),
        ("(1) [3] (2) [1] (3) [2]", [3, 1, 2]),
        ("Rank 1 - Passage 3; Rank 2 - Passage 1; Rank 3 - Passage 2", [3, 1, 2]),
        ("Rank 1: `[3]`; Rank 2: `[1]`; Rank 3: `[2]`", [3, 1, 2]),
        ("Rank 1: Doc #3 [7/10], Rank 2: Doc #1 [6/10], Rank 3: Doc #2 [1/10]", [3, 1, 2]),
        ("#1 `[3]` (relevance: 9)\n#2 `[1]` (relevance: 5)\n#3 `[2]` (relevance: 1)", [3, 1, 2]),
        ("(1) Passage 3 = 9\n(2) Passage 1 = 8\n(3) Passage 2 = 7", [3, 1, 2]),
        ("Ranking:\nRank 1: `[3]` [8/10]; Rank 2: `[1]` [7/10]; Rank 3: `[2]` [1/10]", [3, 1, 2]),
        ("Rank 1 - **[3]** [8/10]; Rank 2 - **[1]** [7/10]; Rank 3 - **[2]** [1/10]", [3, 1, 2]),
        ("Ranking:\nRank 1 - [3] (passage 3), Rank 2 - [1] (passage 1), Rank 3 - [2] (passage 2)", [3, 1, 2]),
        ("Rank 1 - Document 3 -> 9\nRank 2 - Document 1 -> 8\nRank 3 - Document 2 -> 6", [3, 1, 2]),
        ("#1 passage [3] = 9\n#2 passage [1] = 7\n#3 passage [2] = 6", [3, 1, 2]),
        ("[3.] > [1.] > [2.]", [3, 1, 2]),
        ("Considered: [1], [2]; Final answer: [3]", [3]),
        ("Considered: [1], [2]\nFinal answer: [3]", None),
        ("Ranking: [3] > [1] > [2]\nFinal answer: [3]", [3, 1, 2]),
        ("Initial: [1], [2], [3]; Final: [3], [1], [2]", [3, 1, 2]),
    ],
)
def test_lists_beside_each_other_are_all_read_or_none_is(answer: str, order: list[int] | None) -> None:
    parsed = parse_answer(answer, 3)
    assert [index + 1 for index in parsed.ranked] == (order or []), parsed.status
    assert parsed.rejected == (order is None)


@pytest.mark.parametrize(
    "answer",
    [
        "[1]: 4/5 (very good)\n[2]: 1/5\n[3]: 2/5",
        "[1]: 4 - talks about lists\n[2]: 1\n[3]: 2",
        "[1]: score 4\n[2]: score 1\n[3]: score 2, but old",
        "Passage 1: 9/10\nPassage 2: 3/10 (off topic)\nPassage 3: 7/10",
        "[1] 0.9\n[2] 0.1\n[3] 0.4 because it names lists",
    ],
)
def test_a_score_with_a_remark_behind_it_counts_beside_scores_without(answer: str) -> None:
    assert parse_answer(answer, 3).ranked == (0, 2, 1)


IDENTIFIERS = ("[{d}]", "Passage {d}", "**[{d}]**", "passage [{d}]", "[{d}] (passage {d})", "`[{d}]`", "Doc #{d}")
PLACES = ("{r}. ", "{r}) ", "({r}) ", "#{r} ", "**{r}.** ", "- ", "* ", "Rank {r}: ", "Rank {r} - ", "Position {r}: ")
PLACES += ("Tier {r}: ",)
REMARKS = (
    "",
    " (score {s})",
    " - relevance {s}/10",
    ": {s}",
    " — highly relevant to the query",
    " [{s}/10]",
    " = {s}",
)
REMARKS += (" (most relevant)", " (relevance: {s})")
HEADS = ("", "Ranking:\n", "Here is the ranking from most to least relevant:\n", "The query asks about 3 things.\n")
TAILS = ("", "\n\nLet me know if you need more.", "\nConfidence: 8/10")


@given(
    st.integers(3, 5).flatmap(lambda n: st.permutations(range(1, n + 1))),
    *map(st.sampled_from, (IDENTIFIERS, PLACES, REMARKS, ("\n", "\n\n", "; "), HEADS, TAILS)),
)
@settings(max_examples=1000)
def test_a_ranking_with_places_and_remarks_is_read_as_it_stands_or_rejected(
    order: list[int], identifier: str, place: str, remark: str, separator: str, head: str, tail: str
) -> None:
    assume(separator != "; " or place not in ("- ", "* "))
    assume(order != sorted(order))  # may be an echo of the input
    form = place + identifier + remark
    entries = [form.format(r=rank, d=document, s=10 - rank) for rank, document in enumerate(order, 1)]
    text = head + separator.join(entries) + tail
    parsed = parse_answer(text, len(order))
    assert parsed.rejected or [index + 1 for index in parsed.ranked] == order, (text, parsed)
