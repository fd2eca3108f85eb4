"""The words of queries with and without spaces between words."""

from __future__ import annotations

import pytest

from rrad_ray.data.words import query_words, word_count


@pytest.mark.parametrize(
    ("query", "words", "count"),
    [
        ("Open File mode", ("open", "file", "mode"), 3),
        ("北京天气", ("北京", "京天", "天气"), 2),
        ("北京 天气预报", ("北京", "天气", "气预", "预报"), 3),
        ("猫", ("猫",), 1),
        ("Python入門", ("入門", "python"), 2),
        ("신발 추천", ("신발", "추천"), 2),
        ("cafe\u0301", ("caf\u00e9",), 1),
        ("", (), 0),
    ],
)
def test_chinese_and_japanese_have_words_although_they_write_no_spaces(
    query: str, words: tuple[str, ...], count: int
) -> None:
    assert query_words(query) == words
    assert word_count(query) == count


def test_a_longer_query_shares_words_with_the_one_that_it_rewrites() -> None:
    assert set(query_words("北京天气")) & set(query_words("北京天气预报"))
    assert not set(query_words("北京天气")) & set(query_words("上海地铁"))
