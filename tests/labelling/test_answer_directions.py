"""What an answer says of the direction of its order, of orders that it takes back, and of data by what it names."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.labelling.answers import parse_answer
from tests.labelling.orders import listed, orders, read_order

FROM_LEAST_TO_MOST = (
    "From least to most relevant",
    "In increasing order of relevance",
    "In reverse order of relevance",
    "Ascending order of relevance",
    "Worst to best",
    "Van minst naar meest relevant",
    "Dal meno al più rilevante",
    "Do menos para o mais relevante",
    "Du moins au plus pertinent",
    "De menor a mayor relevancia",
    "Od najmniej do najbardziej trafnego",
    "En az ilgiliden en çok ilgiliye",
    "От наименее к наиболее релевантному",
    "Aufsteigend nach Relevanz",
    "按相关性从低到高",
    "関連度の低い順",
    "관련성이 낮은 순서",
)


@given(orders, st.sampled_from(FROM_LEAST_TO_MOST))
def test_a_list_that_is_said_to_be_worst_first_is_turned_round_in_every_language(order: list[int], lead: str) -> None:
    assert read_order(f"{lead}: {listed(order)}", len(order)) == order[::-1]


@given(orders, st.sampled_from(FROM_LEAST_TO_MOST))
def test_a_chain_of_greater_signs_that_is_said_to_be_worst_first_is_no_order(order: list[int], lead: str) -> None:
    chain = " > ".join(f"[{number}]" for number in order)
    parsed = parse_answer(f"{lead}: {chain}", len(order))
    assert parsed.rejection == "worst first, but with >"


@pytest.mark.parametrize(
    "answer",
    [
        "[1] -> [3] -> [2] (least to most relevant)",
        '[1] > [3] > [2] (where > means "less relevant than")',
        "[1] > [3] > [2], worst first",
        "I would reverse this order: [1] > [2] > [3]",
        "Ranking: [1] > [2] > [3]\nEdit: swap 1 and 3.",
        "[1] > [2] > [3]. Actually, swap [1] and [2].",
        "All three are equally relevant: [1], [2], [3].",
        "[1] > [2] > [3] would be wrong.",
        "[2], [1] and [3] are equally relevant",
        '{"error": "cannot rank", "documents": [1, 2, 3]}',
        '{"ranks": [3, 1, 2]}',
        '{"rank_of_each_passage": [2, 3, 1]}',
        '{"ranking": ["the one on cats (2 of 3)", "[1]"]}',
        "3: [1]\n2: [2]\n1: [3]",
    ],
)
def test_an_order_whose_direction_is_open_or_that_is_taken_back_is_rejected(answer: str) -> None:
    assert parse_answer(answer, 3).rejected


@given(orders, st.data())
def test_an_order_that_the_words_around_it_take_back_is_not_the_answer(order: list[int], data: st.DataObject) -> None:
    other = data.draw(st.permutations(order).filter(lambda drawn: drawn != order))
    right, wrong = (" > ".join(f"[{number}]" for number in numbers) for numbers in (order, other))
    form = data.draw(
        st.sampled_from(
            (
                "{right}, not {wrong}.",
                "The order is not {wrong} but {right}.",
                "Rather than {wrong}, I suggest {right}.",
                "Instead of {wrong}: {right}",
                "{right}\n(My first thought was {wrong}, but that is wrong.)",
                "{right}\n{wrong} would be incorrect.",
                "Nicht {wrong}, sondern {right}",
            )
        )
    )
    assert read_order(form.format(right=right, wrong=wrong), len(order)) == order


@pytest.mark.parametrize(
    ("answer", "n", "order"),
    [
        # figures of which the lowest is the best
        (
            '{"results": [{"id": 2, "distance": 0.9}, {"id": 3, "distance": 0.1}, {"id": 1, "distance": 0.5}]}',
            3,
            [3, 1, 2],
        ),
        ('[{"id": 1, "irrelevance_score": 0.9}, {"id": 2, "irrelevance_score": 0.1}]', 2, [2, 1]),
        ("[1]: distance 0.9\n[2]: distance 0.1\n[3]: distance 0.5", 3, [2, 3, 1]),
        # what stands beside an identifier in a list
        ('{"ranking": ["Passage 3 (best)", "Passage 1", "Passage 2 (off topic)"]}', 3, [3, 1, 2]),
        ('["[3]: it answers", "[1]: in part"]', 3, [3, 1]),
        ('{"relevant": {"3": true, "1": true, "2": false}}', 3, [3, 1]),
        ('{"passages": [{"id": 1, "title": "no"}, {"id": 2, "title": "yes"}], "ranking": [2, 1]}', 2, [2, 1]),
        ("sorted_passages = [1, 3, 2]  # least relevant first", 3, [2, 3, 1]),
        # ranks before identifiers, in lines and beside each other
        ("Ranking 1: [3]\nRanking 2: [1]\nRanking 3: [2]", 3, [3, 1, 2]),
        ("rank_1=[2]; rank_2=[3]; rank_3=[1]", 3, [2, 3, 1]),
        ("[1] rank 3 [2] rank 1 [3] rank 2", 3, [2, 3, 1]),
        # the rank of each document that is its own inverse
        ('{"ranks": [3, 2, 1]}', 3, [3, 2, 1]),
        # columns between spaces, boxes, documents as columns
        ("Rank  Passage\n1     3\n2     1\n3     2", 3, [3, 1, 2]),
        ("Passage  Rank\n1        3\n2        1\n3        2", 3, [2, 3, 1]),
        ("Passage Score\n1 2\n2 9\n3 5", 3, [2, 3, 1]),
        ("+------+----+\n| rank | id |\n+------+----+\n| 1 | 3 |\n| 2 | 1 |\n| 3 | 2 |\n+------+----+", 3, [3, 1, 2]),
        ("| | [1] | [2] | [3] |\n|---|---|---|---|\n| score | 2 | 9 | 5 |", 3, [2, 3, 1]),
        # the score before its documents
        ("Score 2: [1]\nScore 5: [3]\nScore 9: [2]", 3, [2, 3, 1]),
        ("9: [2]\n5: [3]\n2: [1]", 3, [2, 3, 1]),
        ("10/10: [2], [4]\n5/10: [3]\n1/10: [1]", 4, [2, 4, 3, 1]),
        ("1/3: [3]\n2/3: [1]\n3/3: [2]", 3, [3, 1, 2]),
        # ranges that fall
        ("[5] > [4-1]", 5, [5, 4, 3, 2, 1]),
        ("[5] > [4] - [1]", 5, [5, 4, 3, 2, 1]),
        ("[3-1] > [2]", 3, [3, 1, 2]),
        # places in words belong to the document before them
        ("[1] should come last, [3] first.", 3, [3, 1]),
        ("[3], then [1] and last [2].", 3, [3, 1, 2]),
        # prose and lists of more languages
        ("Am relevantesten ist [3], gefolgt von [1] und zuletzt [2].", 3, [3, 1, 2]),
        ("Le passage [3] est le plus pertinent, suivi de [1], puis [2].", 3, [3, 1, 2]),
        ("El pasaje [3] es el más relevante, seguido de [1] y por último [2].", 3, [3, 1, 2]),
        ("O mais relevante é [3], seguido por [1] e [2].", 3, [3, 1, 2]),
        ("Il più pertinente è [3], poi [1], infine [2].", 3, [3, 1, 2]),
        ("Самый релевантный — [3], затем [1], затем [2].", 3, [3, 1, 2]),
        ("从最相关到最不相关：[3]、[1]、[2]", 3, [3, 1, 2]),
    ],
)
def test_what_a_figure_column_or_word_means_decides_the_order(answer: str, n: int, order: list[int]) -> None:
    assert read_order(answer, n) == order


@pytest.mark.parametrize("words", ["is worse", "is the less relevant one", "is the weaker of them", "is inferior"])
def test_of_two_documents_the_one_that_is_called_worse_is_not_put_first(words: str) -> None:
    assert parse_answer(f"Between the two, [1] {words}.", 2).rejection == "one of two, said to be the worse one"
    assert parse_answer("Between the two, [1] is better.", 2).ranked == (0,)


FIGURES = ("[1]: 4\n[2]: 1\n[3]: 2", "[1]: 4, [2]: 1, [3]: 2", "[1] - score: 4\n[2] - score: 1\n[3] - score: 2")
TABLES = (
    "| Passage | score ({}) |\n|---|---|\n| [1] | 4 |\n| [2] | 1 |\n| [3] | 2 |",
    "Passage,score ({})\n1,4\n2,1\n3,2",
)
LOWEST_IS_BEST = [
    "1 = best",
    "1 = most relevant, 5 = least relevant",
    "1 = highest relevance, 5 = lowest",
    "from 1 (best) to 5 (worst)",
    "1: sehr gut, 6: ungenügend",
    "lower is better",
    "lower scores mean more relevant",
    "the lower the score, the more relevant",
    "1=最相关 5=不相关",
    "分数越低越相关",
    "低いほど関連性が高い",
    "낮을수록 관련성이 높음",
    "5 = worst",
    "1 = mejor, 5 = peor",
    "de 1 (le plus pertinent) à 5 (le moins pertinent)",
    "1 (più rilevante) - 5 (meno rilevante)",
    "1 (mais relevante) a 5 (menos relevante)",
    "1 = höchste Relevanz, 5 = niedrigste",
    "от 1 (наиболее релевантный) до 5 (наименее)",
    "1分最相关，5分最不相关",
    "1이 가장 관련성이 높고 5가 가장 낮음",
    "1が最も関連性が高く、5が最も低い",
    "the higher the number, the worse the match",
]
HIGHEST_IS_BEST = ["5 = best", "1 = worst", "from 1 (worst) to 5 (best)", "higher is better", "0 = irrelevant", "0-5"]
HIGHEST_IS_BEST += ["5 being the best", "lower scores are less relevant", "of 0 (irrelevant) to 5 (perfect)"]


@pytest.mark.parametrize("figures", [*(f"Scores ({{}}):\n{lines}" for lines in FIGURES), *TABLES])
@pytest.mark.parametrize(
    ("scale", "order"),
    [*((scale, (1, 2, 0)) for scale in LOWEST_IS_BEST), *((scale, (0, 2, 1)) for scale in HIGHEST_IS_BEST)],
)
def test_scores_are_read_from_the_end_that_the_answer_calls_the_best(
    figures: str, scale: str, order: tuple[int, ...]
) -> None:
    parsed = parse_answer(figures.format(scale), 3)
    assert parsed.ranked == order, parsed.status


@pytest.mark.parametrize("scale", LOWEST_IS_BEST)
def test_json_whose_scale_has_the_best_at_its_lower_end_is_no_order_but_for_ranks(scale: str) -> None:
    scores = {"scale": scale, "scores": {"1": 4, "2": 1, "3": 2}}
    items = {"note": scale, "results": [{"id": 1, "score": 4}, {"id": 2, "score": 1}, {"id": 3, "score": 2}]}
    assert all(parse_answer(json.dumps(each, ensure_ascii=False), 3).rejected for each in (scores, items))
    ranking = {"scale": scale, "ranking": [2, 3, 1], "scores": {"1": 4, "2": 1, "3": 2}}
    assert parse_answer(json.dumps(ranking, ensure_ascii=False), 3).ranked == (1, 2, 0)


@pytest.mark.parametrize(
    ("answer", "order"),
    [
        ("Scores from 0 to 1 (1 = perfect match):\n[1]: 0.9\n[2]: 0.1\n[3]: 0.3", (0, 2, 1)),
        ("Scores from 0 (perfect match) to 1 (no match):\n[1]: 0.9\n[2]: 0.1\n[3]: 0.3", (1, 2, 0)),
        ("Relevance (1 = relevant, 0 = not relevant):\n[1]: 0.9\n[2]: 0.1\n[3]: 0.3", (0, 2, 1)),
        ("Distance to the query:\n[1]: 0.9\n[2]: 0.1\n[3]: 0.3", (1, 2, 0)),
        ("Passage 1 is the best match.\n[1]: 9\n[2]: 1\n[3]: 2", (0, 2, 1)),
        ("[1]: 7 (good)\n[2]: 9\n[3]: 8 (poor style, but it answers)", (1, 2, 0)),
        ("Relevance of each passage:\n[1]: 9/10\n[2]: 2/10 (poor)\n[3]: 5/10", (0, 2, 1)),
        ("The query asks when lower is better. Relevance:\n[1]: 4\n[2]: 1\n[3]: 2", (0, 2, 1)),
        (
            "The second ranks lower, as better ones exist; lower better known texts.\n[1]: 4\n[2]: 1\n[3]: 2",
            (0, 2, 1),
        ),
        ("Passage 2 is lower: the best is passage 1.\n[1]: 4/5\n[2]: 1/5\n[3]: 2/5", (0, 2, 1)),
        ("Perplexity: [1]: 40.2, [2]: 10.5, [3]: 22.0", (1, 2, 0)),
        ("Relevance (1 = best):\n[1]: 3\n[2]: 1\n[3]: 2", (1, 2, 0)),
    ],
)
def test_a_scale_is_read_with_its_values_and_not_from_a_document(answer: str, order: tuple[int, ...]) -> None:
    parsed = parse_answer(answer, 3)
    assert parsed.ranked == order, parsed.status
