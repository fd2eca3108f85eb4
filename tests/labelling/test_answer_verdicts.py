"""What an answer says of each document is read as what it means, or the answer is no order."""

from __future__ import annotations

import time

import pytest

from rrad_ray.labelling.answers import parse_answer


def _order(answer: str, documents: int) -> list[int] | None:
    return [index + 1 for index in parse_answer(answer, documents).ranked] or None


@pytest.mark.parametrize(
    ("answer", "documents", "order"),
    [
        ("[3] > [1] > [2]\nHuman: thanks!\nAssistant: [1] > [2] > [3]", 3, [3, 1, 2]),
        ("[3] > [1] > [2]<|start_header_id|>user<|end_header_id|>\n[1] > [2] > [3]", 3, [3, 1, 2]),
        ("[3] > [1] > [2]<|user|>\n[1] > [2] > [3]", 3, [3, 1, 2]),
        ("[3] > [1] > [2]<start_of_turn>user\n[1] > [2] > [3]", 3, [3, 1, 2]),
        ("[3] > [1] > [2] [/INST] [1] > [2] > [3]", 3, [3, 1, 2]),
        ("[3] > [1] > [2]\n\n### Instruction:\nRank\n### Response:\n[1] > [2] > [3]", 3, [3, 1, 2]),
        ("[3] > [1] > [2]\n用户：谢谢\n助手：[1] > [2] > [3]", 3, [3, 1, 2]),
        ("[/INST] [3] > [1] > [2]", 3, [3, 1, 2]),
        (
            "[3] > [1] > [2]\n\nSearch query: other query\n[1] foo\n[2] bar\nRank the passages: [2] > [1]",
            3,
            [3, 1, 2],
        ),
        ("Sure, ranking the 3 passages.\nQuestion: what is X?\n[3] > [1]", 3, [3, 1]),
    ],
)
def test_an_answer_ends_where_the_model_goes_on_with_another_turn(
    answer: str, documents: int, order: list[int] | None
) -> None:
    assert _order(answer, documents) == order


@pytest.mark.parametrize(
    ("answer", "documents", "order"),
    [
        ("[1]: No\n[2]: Yes\n[3]: No", 3, [2]),
        ("[1] ★☆☆\n[2] ★★★\n[3] ★★☆", 3, [2, 3, 1]),
        ("[1] ❌\n[2] ✅", 2, [2]),
        ("[1]: C\n[2]: A\n[3]: B", 3, [2, 3, 1]),
        ("[1]: third\n[2]: first\n[3]: second", 3, [2, 3, 1]),
        ("[1]: 관련 없음\n[2]: 매우 관련 있음\n[3]: 부분적으로 관련", 3, [2, 3, 1]),
        ("[1]: 2 - cats\n[2]: 9 - exact\n[3]: 5 - part", 3, [2, 3, 1]),
        ("[1]: 2점 - x\n[2]: 9점 - y", 2, [2, 1]),
        ("[1]：2分，猫\n[2]：9分，答", 2, [2, 1]),
        ("[1] Score: 2 out of 10\n[2] Score: 9 out of 10", 2, [2, 1]),
        ("[1]: foo\n[2]: bar\n[3]: baz", 3, None),
        ("[1] - blue\n[2] - red", 2, None),
        ("[1]: +\n[2]: +++\n[3]: ++", 3, None),
        ("[1]: 第三\n[2]: 第一\n[3]: 第二", 3, [2, 3, 1]),
        ("[1]: 셋째\n[2]: 첫째\n[3]: 둘째", 3, [2, 3, 1]),
        ("[1]\nNo\n[2]\nYes\n[3]\nNo", 3, [2]),
        ("[1]: No, [2]: Yes, [3]: No", 3, [2]),
        ("Passage 1: No\nPassage 2: Yes\nPassage 3: No", 3, [2]),
        ("[1]: slightly relevant\n[2]: relevant\n[3]: very relevant", 3, [3, 2, 1]),
        ("[1]: いいえ\n[2]: はい", 2, [2]),
        ("[1]：不相关\n[2]：非常相关\n[3]：部分相关", 3, [2, 3, 1]),
        ("[1]：関連なし\n[2]：とても関連がある\n[3]：やや関連", 3, [2, 3, 1]),
        ("[1]: B+\n[2]: A-\n[3]: A", 3, [3, 2, 1]),
        ("[1]: 👎\n[2]: 👍", 2, [2]),
        ("[1]: △\n[2]: ◎\n[3]: ×", 3, [2, 1, 3]),
        ("[1]: 1/5 - no\n[2]: 5/5 - yes\n[3]: 3/5 - part", 3, [2, 3, 1]),
        ("[1]: ⭐\n[2]: ⭐⭐⭐\n[3]: ⭐⭐", 3, [2, 3, 1]),
        ("[1]: Relevance: Low - cats\n[2]: Relevance: High - dogs", 2, [2, 1]),
        ("Ranking:\n[1] - best match\n[2] - fine\n[3] - weak", 3, [1, 2, 3]),
        ("1. [1] title\n2. [2] other\n3. [3] more", 3, [1, 2, 3]),
        ("[1]: Yes\n[2]: Yes", 2, None),
        ("[1]: No\n[2]: No\n[3]: No", 3, None),
        ("[3] - answers it\n[1] - partly\n[2] - off", 3, [3, 1, 2]),
        ("1. [1]: Low\n2. [2]: High\n", 2, [2, 1]),
    ],
)
def test_verdicts_sort_the_documents_and_those_that_are_not_understood_are_no_order(
    answer: str, documents: int, order: list[int] | None
) -> None:
    assert _order(answer, documents) == order


@pytest.mark.parametrize(
    ("answer", "documents", "order"),
    [
        ("首先是[3]，其次是[1]，最后是[2]。", 3, [3, 1, 2]),
        ("首先 [3]，其次 [1]，最后 [2]", 3, [3, 1, 2]),
        ("First: [3]. Second: [1]. Finally: [2].", 3, [3, 1, 2]),
        ("[3] is first, then [1], and the final one is [2].", 3, [3, 1, 2]),
        ("Last: [2]. First: [3]. Second: [1].", 3, [3, 1, 2]),
        ("[3] comes first because it answers the query. Then [1], which helps a bit. Finally: [2].", 3, [3, 1, 2]),
        ("まず[3]、次に[1]、最後は[2]", 3, [3, 1, 2]),
        ("[1] is about cats. [2] is about dogs. Final answer: [3]", 3, [3]),
        ("Starting with [3] as it answers the query, I then put [1] which helps. Finally: [2]", 3, [3, 1, 2]),
        ("De menor a mayor relevancia: [2], [1], [3]", 3, [3, 1, 2]),
        ("First, [1] is about cats. Then [2] is about dogs. The final ranking is [3].", 3, [3]),
        ("最好的是[3]，其次是[1]，最差的是[2]。", 3, [3, 1, 2]),
        ("Best: [3]\nWorst: [2]\nMiddle: [1]", 3, [3, 1, 2]),
    ],
)
def test_places_in_words_are_the_order_and_the_last_place_is_not_the_whole_of_it(
    answer: str, documents: int, order: list[int] | None
) -> None:
    assert _order(answer, documents) == order


@pytest.mark.parametrize(
    ("answer", "documents", "order"),
    [
        ('[{"id":1,"relevance_rank":3},{"id":2,"relevance_rank":1},{"id":3,"relevance_rank":2}]', 3, [2, 3, 1]),
        ('[{"id":1,"finalRank":3},{"id":2,"finalRank":1},{"id":3,"finalRank":2}]', 3, [2, 3, 1]),
        ("| Passage | Relevance Rank |\n|---|---|\n| 1 | 3 |\n| 2 | 1 |\n| 3 | 2 |", 3, [2, 3, 1]),
        ("| Passage | Match |\n|---|---|\n| [1] | 20% |\n| [2] | 95% |", 2, [2, 1]),
        ("| Passage | Rank |\n|---|---|\n| [1] | 3rd |\n| [2] | 1st |\n| [3] | 2nd |", 3, [2, 3, 1]),
        ("| 段落 | 相关程度 |\n|---|---|\n| [1] | 低 |\n| [2] | 高 |\n| [3] | 中 |", 3, [2, 3, 1]),
        ('[{"id":1,"usefulness":3},{"id":2,"usefulness":9}]', 2, [2, 1]),
        ('[{"id":1,"zork":3},{"id":2,"zork":9}]', 2, None),
        ('[{"id":1,"reason":"a"},{"id":2,"reason":"b"}]', 2, [1, 2]),
        ("| Passage | Zork |\n|---|---|\n| [1] | 3 |\n| [2] | 7 |", 2, None),
        ('{"highly_relevant":[3],"relevant":[1],"irrelevant":[2]}', 3, [3, 1]),
        ('{"relevant":[1],"highly_relevant":[3],"irrelevant":[2]}', 3, [3, 1]),
        ('{"低":[1],"高":[3],"中":[2]}', 3, [3, 2, 1]),
        ('{"low":["[1]"],"high":["[3]"],"medium":["[2]"]}', 3, [3, 2, 1]),
        ('{"tier2":[1],"tier1":[3]}', 3, [3, 1]),
        ('{"1":"No","2":"Yes"}', 2, [2, 1]),
        ("Somewhat relevant: [1]\nHighly relevant: [3]\nNot relevant: [2]", 3, [3, 1]),
        ("| Passage | Relevant? |\n|---|---|\n| [1] | No |\n| [2] | Yes |\n| [3] | No |", 3, [2]),
    ],
)
def test_ranks_scores_and_tiers_of_data_are_read_by_their_names_and_values(
    answer: str, documents: int, order: list[int] | None
) -> None:
    assert _order(answer, documents) == order


def test_a_rejected_list_of_verdicts_says_why() -> None:
    assert parse_answer("[1]: foo\n[2]: bar\n[3]: baz", 3).rejection == "verdicts that are not understood"
    assert (
        parse_answer('[{"id": 1, "zork": 3}, {"id": 2, "zork": 9}]', 2).rejection
        == "verdicts that are not understood"
    )
    assert parse_answer("[1]: Yes\n[2]: Yes", 2).rejection == "the same verdict on every document"
    assert parse_answer("[1]: 3 - a\n[2]: 1 - b\n[3]: 2 - c", 3).rejection == "numbers that may be ranks or scores"


@pytest.mark.parametrize(
    "unit", ["[1]\n", "[1]: x\n", "[1]\nx\n", "first [1] ", "[1] ★\n", "High: [1]\n", "\n#", "::", "[1]: No, "]
)
def test_verdicts_without_end_do_not_stall_the_parser(unit: str) -> None:
    began = time.process_time()
    parse_answer(unit * (16_000 // len(unit)), 20)
    assert time.process_time() - began < 15.0, "a stall takes minutes, on a busy machine too"
