"""Grades in words: the steps of scales as answers write them, remarks that are no grades, lists beside grades."""

from __future__ import annotations

import itertools

import pytest

from rrad_ray.labelling.answer_grades import grade_of
from rrad_ray.labelling.answers import parse_answer

# The best step first.
SCALES = [
    "Very high/High/Medium/Low/Very low",
    "Very High Relevance/High Relevance/Moderate Relevance/Low Relevance/Very Low Relevance",
    "Very strong/Strong/Moderate/Weak/Very weak",
    "Perfect/Excellent/Good/Fair/Bad",
    "Excellent/Very good/Good/Fair/Poor/Very poor",
    "Perfectly relevant/Highly relevant/Related/Irrelevant",
    "Extremely relevant/Very relevant/Relevant/Somewhat relevant/Slightly relevant/Not relevant",
    "Very relevant/Relevant/Somewhat relevant/Not very relevant/Not relevant at all",
    "Fully relevant/Highly relevant/Fairly relevant/Marginally relevant/Not relevant",
    "High/Medium-high/Medium/Medium-low/Low",
    "High/Moderately high/Moderate/Low/None",
    "매우 높음/높음/보통/낮음/매우 낮음",
    "매우 관련 있음/관련 있음/부분적으로 관련/관련 없음",
    "완전히 관련/매우 관련/관련/약간 관련/관련 없음",
    "非常高/高/中/低/非常低",
    "极高/非常高/较高/中等/较低/低/极低",
    "非常相关/相关/部分相关/不太相关/不相关",
    "高度相关/相关/部分相关/弱相关/不相关",
    "很高/高/一般/低/很低",
    "相关性很高/相关性高/相关性中等/相关性较低/相关性很低",
    "最高/高/中/低/最低",
    "Sehr hoch/Hoch/Mittel/Niedrig/Sehr niedrig",
    "Sehr relevant/Relevant/Teilweise relevant/Wenig relevant/Nicht relevant",
    "Sehr relevant/Relevant/Nicht besonders relevant/Nicht relevant",
    "Très élevée/Élevée/Moyenne/Faible/Très faible",
    "Très pertinent/Pertinent/Partiellement pertinent/Peu pertinent/Pas pertinent",
    "Très pertinent/Pertinent/Pas très pertinent/Pas du tout pertinent",
    "Muy alta/Alta/Media/Baja/Muy baja",
    "Muy relevante/Relevante/Parcialmente relevante/Poco relevante/Nada relevante",
    "Molto alta/Alta/Media/Bassa/Molto bassa",
    "Molto rilevante/Rilevante/Poco rilevante/Per niente rilevante",
    "Muito alta/Alta/Média/Baixa/Muito baixa",
    "Очень высокая/Высокая/Средняя/Низкая/Очень низкая",
    "Очень релевантно/Релевантно/Частично релевантно/Не очень релевантно/Нерелевантно",
    "非常に高い/高い/中程度/低い/非常に低い",
    "非常に関連/関連/やや関連/あまり関連がない/関連なし",
    "関連性は高い/関連性は中程度/関連性は高くない/関連性なし",
    "관련성이 높음/관련성이 보통/관련성이 높지 않음/관련성 없음",
    "相关性高/部分相关/相关性不高/不相关",
    "相关性强/相关性一般/相关性不强/不相关",
    "Very useful/Useful/Of little use/Useless",
    "Highly related/Partially related/Unlikely to be relevant/Unrelated",
    "Direct answer/Partial answer/No direct answer/No",
    "Fully answers/Partially answers/Does not answer",
    "Best match/Good match/Partial match/No match",
    "Sangat relevan/Relevan/Kurang relevan/Tidak relevan",
    "Zeer relevant/Relevant/Nauwelijks relevant/Niet relevant",
    "Çok ilgili/İlgili/Kısmen ilgili/Alakasız",
    "Bardzo istotny/Istotny/Częściowo istotny/Nieistotny",
    "Relevant/Far from relevant/Irrelevant",
    "Relevant/Scarcely relevant/Not relevant",
    "Relevant/Not directly relevant/Not relevant",
    "Pertinent/Guère pertinent/Aucunement pertinent",
    "相关性不错/相关性一般/相关性低",
    "Most relevant/Relevant/Less relevant/Least relevant",
    "Strongly relevant/Moderately relevant/Weakly relevant/Not relevant",
    "Exact match/Partial match/No match",
    "Definitely relevant/Possibly relevant/Not relevant",
    "Highest/High/Medium/Low/Lowest",
    "Extremely high/Very high/High/Low/Very low/Extremely low",
    "Critical/Important/Useful/Marginal",
    "Totally relevant/Mostly relevant/Partly relevant/Barely relevant/Totally irrelevant",
]


@pytest.mark.parametrize("scale", SCALES)
def test_each_step_of_a_scale_is_better_than_the_next_one(scale: str) -> None:
    grades = [grade_of(step) for step in scale.split("/")]
    assert None not in grades
    assert all(one > two for one, two in itertools.pairwise(grades) if one is not None and two is not None), grades


@pytest.mark.parametrize("scale", SCALES)
def test_documents_graded_by_a_scale_are_in_its_order_or_the_answer_is_rejected(scale: str) -> None:
    """`very high` was no more than `high`, and 相关性不高 the best grade."""
    steps = scale.split("/")
    for shift in range(1, len(steps)):
        graded = steps[shift:] + steps[:shift]  # of the documents in the order shown
        wanted = [graded.index(step) + 1 for step in steps]
        lines = "\n".join(f"[{number}]: {grade}" for number, grade in enumerate(graded, 1))
        records = ", ".join(f'{{"id": {number}, "verdict": "{grade}"}}' for number, grade in enumerate(graded, 1))
        for answer in (lines, f"[{records}]"):
            order = parse_answer(answer, len(steps))
            ranked = [index + 1 for index in order.ranked]
            assert order.rejected or ranked == wanted[: len(ranked)], (answer, ranked)
            assert order.rejected or len(ranked) >= len(steps) - 1


@pytest.mark.parametrize(
    "words", ["Highly cited", "Very general", "blue", "Not sure", "Not only relevant", "Not low"]
)
def test_words_that_begin_as_a_grade_does_are_none(words: str) -> None:
    assert grade_of(words) is None


@pytest.mark.parametrize(
    "remarks",
    [
        ("Directly answers the question", "Partially answers it", "Highly cited, but other topic", "Unrelated"),
        ("Yes, it answers", "No direct answer, but related", "Yes for background", "No"),
        ("Best match", "Not as complete", "Related background", "Off topic"),
        ("Excellent match, short", "Less detailed", "Very general", "Unrelated"),
        ("Highly relevant", "Partially relevant", "Slightly relevant", "Not very relevant"),
    ],
)
@pytest.mark.parametrize("head", ["", "Here is the ranking from most to least relevant:\n\n", "Final ranking:\n"])
def test_remarks_on_a_ranked_list_do_not_sort_it_again(remarks: tuple[str, ...], head: str) -> None:
    for form in ("{0}. [{1}] - {2}", "{0}. **[{1}]** – {2}", "{0}. [{1}]: {2}", "{0}. Document {1} ({2})"):
        lines = [
            form.format(place, document, remark)
            for place, document, remark in zip(range(1, 5), (3, 1, 4, 2), remarks, strict=True)
        ]
        order = parse_answer(head + "\n".join(lines), 4)
        assert [index + 1 for index in order.ranked] == [3, 1, 4, 2], (lines, order.status)


def test_grades_against_the_order_of_a_list_without_numbers_are_no_order() -> None:
    order = parse_answer("- [3]: Low\n- [1]: High\n- [2]: Medium", 3)
    assert order.status == "rejected: grades against the order of their list"
