"""Words of queries with and without spaces between words, and texts in one form."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.languages.scripts import first_words, folded, normalized, pieces, query_words, word_count


@pytest.mark.parametrize(
    ("query", "words", "count"),
    [
        ("Open File mode", ("open", "file", "mode"), 3),
        ("北京天气", ("北京", "京天", "天气"), 2),
        ("北京 天气预报", ("北京", "天气", "气预", "预报"), 3),
        ("猫", ("猫",), 1),
        ("Python入門", ("python", "入門"), 2),
        ("신발 추천", ("신발", "추천"), 2),
        ("cafe\u0301", ("caf\u00e9",), 1),
        ("ＡＢＣ ｶﾞｽ", ("abc", "ガス"), 2),
        ("हिन्दी भाषा", ("हिन्दी", "भाषा"), 2),
        ("ไทย", ("ไท", "ทย"), 2),
        ("…", (), 1),
        ("", (), 0),
    ],
)
def test_scripts_without_spaces_have_words_too(query: str, words: tuple[str, ...], count: int) -> None:
    assert query_words(query) == words
    assert word_count(query) == count


@pytest.mark.parametrize(
    ("text", "count", "words"),
    [
        ("one two  three", 2, "one two"),
        ("one", 3, "one"),
        (" one\ntwo ", 9, "one two"),
        ("one", 0, ""),
        ("北京天气预报", 2, "北京天气"),
        ("用 Python3 写的程序", 3, "用 Python3 写的"),
        ("กรุงเทพ", 2, "กรุง"),
        ("x" * 100, 2, "x" * 32),
    ],
)
def test_the_first_words_are_few_in_scripts_without_spaces_and_of_long_words_too(
    text: str, count: int, words: str
) -> None:
    assert first_words(text, count) == words


def test_a_longer_query_shares_words_with_the_one_that_it_rewrites() -> None:
    assert set(query_words("北京天气")) & set(query_words("北京天气预报"))
    assert not set(query_words("北京天气")) & set(query_words("上海地铁"))


@pytest.mark.parametrize(
    ("text", "plain", "spans"),
    [
        ("Sort", "sort", []),
        ("ＡＢ，カ", "ab,カ", []),
        ("e\u0301t", "ét", [(0, 2), (2, 3)]),
        ("가나", "가나", []),
        (unicodedata.normalize("NFD", "각나"), "각나", [(0, 3), (3, 5)]),
        ("a\u00adb", "ab", [(0, 1), (2, 3)]),
        ("ﬁt", "fit", [(0, 1), (0, 1), (1, 2)]),
        (
            "\u06a9\u062a\u0627\u0628\u06cc",
            "\u0643\u062a\u0627\u0628\u064a",
            [],
        ),  # Persian, as Arabic keyboards write it
        ("\u06cc\u00ad\u06a9", "\u064a\u0643", [(0, 1), (2, 3)]),
        ("Lego™ℓ", "lego l", [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)]),
    ],
)
def test_a_text_in_one_form_says_where_characters_were(text: str, plain: str, spans: list[tuple[int, int]]) -> None:
    assert normalized(text) == (plain, spans)


@given(st.text())
def test_one_form_keeps_the_order_and_pieces_keep_all_characters(text: str) -> None:
    plain, spans = normalized(text)
    assert len(spans or text) == len(plain) or not plain
    assert spans == sorted(spans)
    assert ["".join(word) for word in pieces(text)] == text.split()


def test_one_query_is_the_same_in_other_letters_and_another_one_is_not() -> None:
    same = ["Café in C++?", "  cafe\u0301  in c++", "ＣＡＦÉ in C++ .", "CAFÉ\tin c++！"]
    assert len({folded(text) for text in same}) == 1
    assert folded("STRASSE in İzmir") == folded("Straße in izmir")
    assert folded("Don\u2019t stop") == folded("don't stop") == folded("DON\u02bcT STOP!")
    for text in (
        "ما هي عاصمة فرنسا؟",
        "ποια είναι η πρωτεύουσα;",
        "भारत की राजधानी क्या है।",
        "フランスの首都は。",
        "首都？",
    ):
        assert folded(text) == folded(text[:-1])
    assert (
        len({folded(text) for text in ("c++", "c#", "c", "open-file", "open file", "北京天气", "北京", "?", "!")})
        == 9
    )
