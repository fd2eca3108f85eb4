"""What stands beside an order in an answer: lists under headings, remarks below documents, documents passed over."""

from __future__ import annotations

import itertools
import json

import pytest

from rrad_ray.labelling.answer_doubts import PASSED_OVER
from rrad_ray.labelling.answers import parse_answer


def read(answer: str, n: int) -> list[int]:
    """Return the order of an answer that must be read."""
    order = parse_answer(answer, n)
    assert not order.rejected, (answer, order.status)
    return [index + 1 for index in order.ranked]


TIERS = {
    "en": ("Most relevant", "Somewhat relevant", "Not relevant"),
    "grades": ("High relevance", "Medium relevance", "Low relevance"),
    "counted": ("Tier 1 (Highly relevant)", "Tier 2 (Partially relevant)", "Tier 3 (Not relevant)"),
    "zh": ("最相关", "部分相关", "不相关"),
    "ja": ("最も関連性が高い", "やや関連性がある", "関連性がない"),
    "ko": ("가장 관련성이 높음", "부분적으로 관련", "관련 없음"),
    "de": ("Sehr relevant", "Teilweise relevant", "Nicht relevant"),
    "fr": ("Très pertinent", "Partiellement pertinent", "Non pertinent"),
    "es": ("Muy relevante", "Parcialmente relevante", "No relevante"),
}
HEADINGS = ("**{}:**", "### {}", "**{}**", "{}:")
ITEMS = ("- [{}]", "* **[{}]** – explains it", "[{}]", "• Passage {}")


@pytest.mark.parametrize("language", TIERS)
def test_lists_under_headings_that_grade_them_are_one_order_the_best_headings_first(language: str) -> None:
    for heading, item, sizes in itertools.product(HEADINGS, ITEMS, ((2, 1, 1), (1, 2, 1), (1, 1, 2))):
        documents = iter([3, 1, 2, 4])
        blocks = [
            "\n".join([heading.format(name), *(item.format(next(documents)) for _ in range(size))])
            for name, size in zip(TIERS[language], sizes, strict=True)
        ]
        ranked = read("\n\n".join(blocks), 4)
        assert ranked in ([3, 1, 2, 4], [3, 1, 2, 4][: sizes[0] + sizes[1]]), (language, blocks)


def test_a_list_under_a_heading_that_grades_nothing_is_not_taken_alone() -> None:
    order = parse_answer("**Best match:**\n- [3]\n\n**Others worth a look:**\n- [1]\n- [2]", 4)
    assert order.status == f"rejected: {PASSED_OVER}"


@pytest.mark.parametrize("head", ["", "Here is the ranking:\n", "**Final ranking:**\n", "최종 순위:\n"])
@pytest.mark.parametrize("item", ["- [{}]", "**[{}]**", "- Document {}", "- [Document {}]"])
def test_what_stands_indented_below_a_document_is_a_remark_on_it(head: str, item: str) -> None:
    lines = [f"{item.format(d)}\n   - Score: {s}/10\n   - Reason: covers it" for d, s in ((3, 9), (1, 7), (2, 4))]
    order = parse_answer(head + "\n".join(lines), 3)
    assert order.rejected or [index + 1 for index in order.ranked] == [3, 1, 2]
    assert item != "- [{}]" or not order.rejected
    lines = [f"{item.format(d)}\n   Score: {s}/10" for d, s in ((1, 7), (2, 4), (3, 9))]
    order = parse_answer(head + "\n".join(lines), 3)
    assert order.rejected or [index + 1 for index in order.ranked] == [3, 1, 2]


@pytest.mark.parametrize(
    "answer",
    [
        "Rank A - Passage 3 - clear\nRank B - Passage 1\n[2]",
        "Pick one: [3] fits.\nPick two: [1] too.\nPick three:\n[2]",
        "Ranking:\nnumber one, [3]: yes it is\n\n[1]\n[2]\n",
    ],
)
def test_documents_that_are_named_beside_an_order_do_not_become_hard_negatives(answer: str) -> None:
    order = parse_answer(answer, 3)
    assert order.rejected or len(order.ranked) == 3, order.status


@pytest.mark.parametrize(
    ("answer", "ranked"),
    [
        ("[1] is about cats. [2] is about dogs. Final answer: [3]", [3]),
        ("[3] > [1]\n\n[2] talks about cooking.", [3, 1]),
        ("1. [3]\n2. [1]\n\n[2] is not relevant.", [3, 1]),
        ("Ranking: [3], [1]\n\nThe remaining passage [2] is off-topic.", [3, 1]),
        ("[1]: No\n[2]: Yes\n[3]: No", [2]),
    ],
)
def test_documents_that_an_answer_leaves_out_knowingly_stay_hard_negatives(answer: str, ranked: list[int]) -> None:
    assert read(answer, 3) == ranked


@pytest.mark.parametrize(
    "head",
    [
        "按相关性从最相关到最不相关排序：",
        "排序结果（从最相关到最不相关）：",
        "Ranking (most relevant to not relevant):",
        "Ranking from most relevant to irrelevant:",
        "Ordered from relevant to irrelevant:",
        "관련도 순위 (가장 관련 있음 → 관련 없음):",
        "ランキング(最も関連→関連なし):",
        "Von relevant bis nicht relevant:",
    ],
)
@pytest.mark.parametrize("item", ["{i}. [{d}]", "- [{d}]", "文档{d}", "{i}. [{d}] - about it"])
def test_the_worse_end_of_a_direction_calls_no_document_irrelevant(head: str, item: str) -> None:
    lines = "\n".join(item.format(i=i, d=d) for i, d in enumerate((3, 1, 4, 2), 1))
    assert read(f"{head}\n{lines}", 4) == [3, 1, 4, 2]
    assert read(f"{head}\n[3] > [1] > [4] > [2]", 4) == [3, 1, 4, 2]


def test_relevant_to_something_else_is_still_irrelevant() -> None:
    assert read("[2] is relevant to cooking, not relevant to the query. Ranking: [3], [1]", 3) == [3, 1]


@pytest.mark.parametrize(
    "about", ["Windows 7|Windows 10|Windows 11", "(2019)|(2020)|(2021)", "page 120|page 300|page 450"]
)
def test_numbers_in_the_titles_of_a_numbered_list_are_no_scores(about: str) -> None:
    titles = about.split("|")
    lines = [f"{i}. [{d}] - {title}" for i, (d, title) in enumerate(zip((3, 1, 2), titles, strict=True), 1)]
    assert read("\n".join(lines), 3) == [3, 1, 2]
    bare = parse_answer("\n".join(line[3:] for line in lines), 3)
    assert bare.rejected or [index + 1 for index in bare.ranked] == [3, 1, 2]


@pytest.mark.parametrize("documents", ["documents", "ids", "passage_ids", "candidates", "indices"])
@pytest.mark.parametrize("scores", ["scores", "relevance", "ratings"])
def test_scores_in_a_list_beside_the_documents_order_them(documents: str, scores: str) -> None:
    assert read(f'{{"{documents}": [1, 2, 3], "{scores}": [5, 1, 9]}}', 3) == [3, 1, 2]
    assert read(f'{{"{documents}": [2, 3, 1], "{scores}": [5, 1, 9]}}', 3) == [1, 2, 3]


def test_ranks_in_a_list_beside_the_documents_order_them_and_a_ranking_is_one() -> None:
    assert read('{"ids": [1, 2, 3], "ranks": [2, 3, 1]}', 3) == [3, 1, 2]
    assert read('{"scores": [9, 2, 7], "ranking": [3, 1, 2]}', 3) == [3, 1, 2]
    assert parse_answer('{"ranking": [1, 2, 3], "scores": [5, 1, 9]}', 3).rejected


@pytest.mark.parametrize("answer", ["[1] > [2] > ... > [9]", "[4] > [2] > … > [7]", "1. [5]\n2. [2]\n...\n9. [1]"])
def test_an_order_that_skips_documents_by_an_ellipsis_is_rejected(answer: str) -> None:
    assert parse_answer(answer, 9).status == "rejected: an order with '...' in it"
    cut = parse_answer("[5] > [2] > ...", 9)
    assert (cut.ranked, cut.status) == ((4, 1), "repaired: cut off")


@pytest.mark.parametrize("head", ["Relevance scores: ", "Scores: ", "Ratings: ", "得分：", "점수: ", "スコア: "])
def test_bare_numbers_that_are_called_scores_are_no_documents(head: str) -> None:
    assert parse_answer(f"{head}3, 5, 1, 4, 2", 5).rejected
    assert parse_answer(f"{head}[3, 5, 1, 4, 2]", 5).rejected
    assert read("Ranking by relevance score: 3, 5, 1, 4, 2", 5) == [3, 5, 1, 4, 2]


@pytest.mark.parametrize(
    "behind",
    [
        "(Ordered from least to most relevant)",
        "The list is ordered from least relevant to most relevant.",
        "(de menor a mayor relevancia)",
        "(par pertinence croissante)",
        "(aufsteigend nach Relevanz)",
        "(most relevant last)",
        "(相关性递增)",
    ],
)
@pytest.mark.parametrize("order", ["[2], [1], [3]", "[2] > [1] > [3]", "1. [2]\n2. [1]\n3. [3]"])
def test_a_direction_that_is_said_behind_an_order_counts(order: str, behind: str) -> None:
    for between in ("\n\n", " "):
        read_so = parse_answer(f"{order}{between}{behind}", 3)
        assert read_so.rejected or [index + 1 for index in read_so.ranked] == [3, 1, 2], (order, read_so.status)


@pytest.mark.parametrize(
    "remark",
    [
        "Passage [2] is the least relevant, while [3] is the most relevant.",
        "The least relevant is [2].",
        "The last one is least relevant; the first the most relevant.",
        "I ranked these by decreasing relevance: the least relevant is [2].",
    ],
)
def test_a_remark_on_the_worst_document_does_not_turn_an_order_round(remark: str) -> None:
    assert read(f"[3] > [1] > [2]\n\n{remark}", 3) == [3, 1, 2]


@pytest.mark.parametrize(
    "remark",
    [
        "Not included: [2]",
        "The remaining passage [2] does not help.",
        "Passage [2] does not mention the query.",
        "Passage 2 lacks an answer.",
        "[2]没有回答问题。",
        "[2]는 질문에 답하지 않습니다.",
    ],
)
def test_documents_that_an_answer_dismisses_may_be_left_out(remark: str) -> None:
    assert read(f"1. [3]\n2. [1]\n\n{remark}", 3) == [3, 1]


BESIDE = [
    "Lower ranked",
    "Ranked lower",
    "Next in the ranking",
    "Rest of the ranking",
    "Tied in the ranking",
    "Others",
]
BESIDE += ["Remaining order", "Worst ranked", "其余排序", "排名较低", "하위 순위", "나머지", "その他の順位"]


@pytest.mark.parametrize("label", BESIDE)
@pytest.mark.parametrize("order", ["[3] > [1]", "Ranking: [3] > [1]", "1. [3]\n2. [1]", "Final answer: [3], [1]"])
def test_what_a_label_puts_beside_an_order_is_not_the_order_and_no_hard_negative(label: str, order: str) -> None:
    for end in ("\n", "\n\n"):
        parsed = parse_answer(f"{order}{end}{label}: [4], [2]", 4)
        assert parsed.rejected or [index + 1 for index in parsed.ranked] == [3, 1, 4, 2], parsed.status


@pytest.mark.parametrize("label", ["Not ranked", "Unranked", "未排名", "순위 외", "圏外", "Irrelevant", "Excluded"])
@pytest.mark.parametrize("order", ["[3] > [1]", "Ranking: [3] > [1]", "1. [3]\n2. [1]"])
def test_what_a_label_says_not_to_be_ranked_is_left_out(label: str, order: str) -> None:
    assert read(f"{order}\n\n{label}: [4], [2]", 4) == [3, 1]


@pytest.mark.parametrize(
    "answer",
    [
        "Ranking: [3], [1]\n\n[4] and [2] are only partially relevant.",
        "1. [3] - directly answers\n2. [1] - partly\n\nThe remaining passages [4] and [2] are less relevant.",
        "[3] > [1]\n\n[4] is somewhat relevant too.",
        '{"ranking": [3, 1], "remaining": [4, 2]}',
        '{"ranking": [3, 1], "also_relevant": [4, 2]}',
        '{"best": 3, "others": [1, 4, 2]}',
        '{"best": [3], "others": [1, 4, 2]}',
        '{"winner": 3, "rest": [1, 4, 2]}',
    ],
)
def test_documents_that_are_called_less_relevant_beside_an_order_are_no_hard_negatives(answer: str) -> None:
    assert parse_answer(answer, 4).rejected


@pytest.mark.parametrize(
    ("answer", "ranked"),
    [
        ('{"ranking": [3, 1], "not_ranked": [4, 2]}', [3, 1]),
        ('{"ranking": [3, 1], "documents": [1, 2, 3, 4]}', [3, 1]),
        ('{"most_relevant": 3, "ranking": [3, 1, 4, 2]}', [3, 1, 4, 2]),
    ],
)
def test_other_members_beside_a_ranking_do_not_spoil_it(answer: str, ranked: list[int]) -> None:
    assert read(answer, 4) == ranked


@pytest.mark.parametrize("label", ["{}. ", "- {}. ", "#{} ", "({}) ", "**{}.** "])
@pytest.mark.parametrize("document", ["[{}]", "**[{}]**", "Passage [{}]", "Document {}"])
@pytest.mark.parametrize("remark", ["", " - covers it"])
def test_a_list_that_counts_down_ends_with_the_best(label: str, document: str, remark: str) -> None:
    items = ((4, 2), (3, 4), (2, 1), (1, 3))
    lines = [label.format(place) + document.format(number) + remark for place, number in items]
    for head in ("", "Counting down:\n", "Final ranking:\n"):
        order = parse_answer(head + "\n".join(lines), 4)
        assert order.rejected or [index + 1 for index in order.ranked] == [3, 1, 4, 2], (lines, order.status)
    assert "(" in label or document != "[{}]" or read("\n".join(lines), 4) == [3, 1, 4, 2]


@pytest.mark.parametrize(
    "lead",
    [
        "Ranks: ",
        "Ranks = ",
        "Document ranks: ",
        "Rank of each passage: ",
        "Rank positions: ",
        "Ranks of [1]..[4]: ",
        "각 문서의 순위: ",
        "各文書の順位：",
        "各文档排名：",
    ],
)
def test_ranks_in_the_order_shown_are_not_read_as_documents(lead: str) -> None:
    for numbers in ("2, 4, 1, 3", "[2, 4, 1, 3]"):
        assert parse_answer(lead + numbers, 4).rejected


def test_lists_announced_by_words_near_ranks_are_orders() -> None:
    for lead in (
        "Below is the ranking: ",
        "Next, the order: ",
        "Ranked: ",
        "Ranks (best first): ",
        "Rank order: ",
        "Ranking: ",
    ):
        assert read(f"{lead}2, 4, 1, 3", 4) == [2, 4, 1, 3]


@pytest.mark.parametrize("dots", ["……", "⋯", "[...]", "(…)", "etc.", "等等", "(others)"])
def test_an_order_that_leaves_its_middle_out_is_rejected(dots: str) -> None:
    assert parse_answer(f"[5] > [2] > [3] > {dots} > [20]", 20).status == "rejected: an order with '...' in it"


@pytest.mark.parametrize("first", ["confidence", "probability", "similarity", "quality", "title_score"])
@pytest.mark.parametrize("second", ["relevance", "relevance_score", "overall_score"])
def test_of_two_figures_that_of_relevance_counts(first: str, second: str) -> None:
    figures = ((0.9, 2), (0.99, 0), (0.5, 3))
    records = [f'{{"id": {i}, "{first}": {a}, "{second}": {b}}}' for i, (a, b) in enumerate(figures, 1)]
    rows = [f"| {i} | {a} | {b} |" for i, (a, b) in enumerate(figures, 1)]
    lines = [f"[{i}]: {first} {a}, {second} {b}" for i, (a, b) in enumerate(figures, 1)]
    answers = [f"[{', '.join(records)}]", "\n".join([f"| ID | {first} | {second} |", "|---|---|---|", *rows])]
    if "_" not in first + second:
        answers.append("\n".join(lines))
    for answer in answers:
        assert read(answer, 3) == [3, 1, 2], answer


def test_two_scores_of_one_rank_that_disagree_are_no_order() -> None:
    records = [{"id": 1, "similarity": 9, "confidence": 2}, {"id": 2, "similarity": 3, "confidence": 5}]
    assert parse_answer(json.dumps(records), 2).rejected


@pytest.mark.parametrize("name", ["ranking", "rank", "ranks", "order", "positions", "순위"])
def test_a_member_with_the_rank_of_each_identifier_sorts_the_lowest_first(name: str) -> None:
    assert read(json.dumps({name: {"[1]": 2, "[2]": 3, "[3]": 1}}), 3) == [3, 1, 2]


def test_an_object_of_identifiers_with_ranks_or_scores_is_no_order_unless_they_are_called_scores() -> None:
    figures = {"[1]": 2, "[2]": 3, "[3]": 1}
    assert parse_answer(json.dumps(figures), 3).rejected
    assert read(json.dumps({"scores": figures}), 3) == [2, 1, 3]
    assert read(json.dumps({"[1]": 7, "[2]": 9, "[3]": 1}), 3) == [2, 1, 3]


ASIDE = ["- [6]: not relevant", "I left out [5] and [6] as irrelevant", "Excluded: [5], [6] (not relevant)"]
ASIDE += [
    "제외: [5], [6] (관련 없음)",
    "5 and 6 不相关",
    "[5] and [6] are not relevant to the query.",
    "[5]、[6]与查询无关。",
]


@pytest.mark.parametrize("aside", ASIDE)
@pytest.mark.parametrize("order", ["[2] > [4] > [1] > [3]", "[2], [4], [1], [3]"])
def test_an_order_below_a_line_that_calls_others_irrelevant_is_whole(aside: str, order: str) -> None:
    """Without a full stop, the line counted as words about the order's first document: the best was lost."""
    assert read(f"{aside}\n\n{order}", 6) == [2, 4, 1, 3]


def test_an_analysis_in_lines_does_not_take_the_place_of_the_order_below_it() -> None:
    lines = [f"- [{number}]: relevant" for number in range(1, 5)] + ["- [5]: not relevant", "- [6]: not relevant"]
    assert read("\n".join(lines) + "\n\n[2] > [4] > [1] > [3]", 6) == [2, 4, 1, 3]


@pytest.mark.parametrize(
    ("answer", "ranked"),
    [
        ('[{"id": 1, "relevance": {"score": 0.4}}, {"id": 2, "relevance": {"score": 0.9}}]', [2, 1]),
        ('[{"id": 1, "relevance": {"grade": "low"}}, {"id": 2, "relevance": {"grade": "high"}}]', [2, 1]),
        ('[{"id": 1, "relevance": {"score": 2, "confidence": 9}}, {"id": 2, "relevance": {"score": 3}}]', [2, 1]),
        ("1. [2] - [3] covers the same topic but less\n2. [1] - background\n3. [3] - short", [2, 1, 3]),
        ("1. [2] - [3]와 비슷하지만 배경 설명\n2. [1] - 배경\n3. [3] - 짧다", [2, 1, 3]),
        ("[2] > [1] > [3]\n\nI considered [1] > [2] > [3] but rejected it.", [2, 1, 3]),
        ("Final ranking: [2] > [1] > [3]\n\nAn alternative ranking would be [3] > [2] > [1].", [2, 1, 3]),
    ],
)
def test_what_stands_within_or_behind_an_order_is_not_taken_for_it(answer: str, ranked: list[int]) -> None:
    assert read(answer, len(ranked)) == ranked


@pytest.mark.parametrize(
    "answer",
    [
        "[3] > [1] > others",
        "[3] > [1], and the others",
        "[3] > [1] > 나머지",
        "None of the passages is relevant. [3] and [1] are about something else.",
        "抱歉，我无法对这些段落进行排序，因为[4]和[2]涉及敏感内容。",
        "[2] > [4] > [1] > [3]\n\nCorrection: [4] should come before [2].",
        "1. [2]\n2. [4]\n3. [1]\n4. [3]\n\nActually, [4] is more relevant than [2], so they should be swapped.",
        "| Rank | Passage |\n|---|---|\n| 1 | [3] |\n| 2 | [1] |\n\n[2] is less relevant.",
        '{"ranking": [3, 1, 4], "notes": "[2] is partially relevant"}',
        "[3] > [1]\n\n[2] is less relevant and [4] is irrelevant.",
        "- [1] 介绍了背景 (部分相关)\n- [2] 直接回答了查询 (高度相关)\n- [3] 讨论其他 (不相关)\n- [4] 例子 (相关)",
        'ranking:\n  "[1]": 4\n  "[2]": 3\n  "[3]": 1\n  "[4]": 2',
    ],
)
def test_what_is_no_whole_order_is_rejected(answer: str) -> None:
    assert parse_answer(answer, 4).rejected
