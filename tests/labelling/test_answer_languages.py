"""What an answer says in other languages than English: directions, what is left out, grades, what is final."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.labelling.answers import parse_answer
from tests.labelling.orders import listed, orders, read_order

FROM_WORST = (
    "De peor a mejor",
    "Do pior ao melhor",
    "Dal peggiore al migliore",
    "Du pire au meilleur",
    "Vom schlechtesten zum besten",
    "Von am wenigsten relevant zu am relevantesten",
    "Van slechtste naar beste",
    "От худшего к лучшему",
    "Kötüden iyiye",
    "Från minst till mest relevant",
    "Vähiten olennaisesta eniten olennaiseen",
    "Από το λιγότερο στο περισσότερο σχετικό",
    "מהפחות רלוונטי ליותר רלוונטי",
    "از کم‌ارتباط‌ترین به مرتبط‌ترین",
    "จากเกี่ยวข้องน้อยที่สุดไปมากที่สุด",
    "Từ ít liên quan nhất đến liên quan nhất",
    "Dari yang paling tidak relevan hingga paling relevan",
    "En orden ascendente de relevancia",
    "По возрастанию релевантности",
    "從最不相關到最相關",
    "相关性由弱到强",
    "相關性從低到高",
    "関連度が最も低いものから高いものへ",
    "관련성이 낮은 것부터 높은 것 순으로",
)
FROM_BEST = (
    "De la más a la menos relevante",
    "Du plus au moins pertinent",
    "Du plus pertinent au moins pertinent, avec plus de poids sur la question",
    "Dal migliore al peggiore",
    "Vom relevantesten zum am wenigsten relevanten",
    "От лучшего к худшему",
    "En çok ilgiliden en az ilgiliye",
    "Từ liên quan nhất đến ít liên quan nhất",
    "Dari yang paling relevan hingga paling tidak relevan",
    "من الأكثر صلة إلى الأقل صلة",
    "सबसे अधिक प्रासंगिक से सबसे कम प्रासंगिक",
    "Par ordre décroissant de pertinence",
    "По убыванию релевантности",
    "由高到低",
    "関連度の高い順",
    "관련성 내림차순",
)
IRRELEVANT = (
    "Nicht passend",
    "Sans rapport",
    "Non rilevanti",
    "Não relevantes",
    "Niet relevant",
    "Nieistotne",
    "İlgisiz",
    "Нерелевантные",
    "Не относятся к делу",
    "غير ذات صلة",
    "अप्रासंगिक",
    "ไม่เกี่ยวข้อง",
    "Không liên quan",
    "Tidak relevan",
)


@given(orders, st.sampled_from(FROM_WORST))
def test_a_list_that_goes_up_is_turned_round(order: list[int], lead: str) -> None:
    assert read_order(f"{lead}: {listed(order)}", len(order)) == order[::-1]


@given(orders, st.sampled_from(FROM_BEST))
def test_a_list_that_goes_down_stays_as_it_is(order: list[int], lead: str) -> None:
    assert read_order(f"{lead}: {listed(order)}", len(order)) == order


@given(orders, st.sampled_from(IRRELEVANT), st.integers(1, 2))
def test_documents_that_are_called_irrelevant_are_not_ranked(order: list[int], words: str, kept: int) -> None:
    left_out, n = f"{words}: {listed(order[kept:])}", len(order)
    assert read_order(f"{listed(order[:kept])}\n\n{left_out}", n) in (order[:kept], [])
    chain = " > ".join(f"[{number}]" for number in order[:2])
    assert read_order(f"{chain}\n\n{words}: {listed(order[2:])}", n) == order[:2]
    assert parse_answer(f"{words}: {listed(order)}", n).rejected
