"""The terms of texts in many scripts, their marks, and how well BM25 finds by them."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrad_ray.data.bm25 import BM25Index, top_k
from rrad_ray.data.reader import read_collection
from rrad_ray.errors import InvalidInput
from rrad_ray.evaluation.metrics import ndcg
from rrad_ray.languages import Language, scripts
from rrad_ray.languages.analyser import SNOWBALL, Analyser, analyser, chosen
from rrad_ray.languages.morphology import DICTIONARIES

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.mark.parametrize(
    ("language", "text", "terms"),
    [
        ("auto", "How to open the Files", ["how", "open", "file"]),
        ("auto", "Cafés in ＴＯＫＹＯ", ["cafe", "tokyo"]),
        ("auto", "работают книги", ["работа", "книг"]),
        ("auto", "किताबें", ["किताब"]),
        ("auto", "北京的", ["北", "京", "的", "北京", "京的"]),
        ("auto", "食べた", ["食", "食べ", "べた"]),
        ("auto", "ｶﾒﾗ", ["カ", "メ", "ラ", "カメ", "メラ"]),
        ("auto", "서울에서 책을", ["서", "울", "서울", "책", "을", "책을"]),
        ("auto", "ภาษา", ["ภาษ", "าษา"]),
        ("auto", "2026年5月, x", ["2026", "年", "5", "月"]),
        ("auto", "https://a-b.example.com/Docs?id=42 #맛집 sort_keys E0602", 
         ["https", "exampl", "com", "doc", "id", "42", "맛", "집", "맛집", "sort_key", "e0602"]),
        ("de", "Die Häuser der Stadt", ["haus", "stadt"]),
        ("de", "работают", ["работа"]),
        ("fr", "les chevaux", ["cheval"]),
        ("zh", "北京天气", ["北", "京", "天", "气", "北京", "京天", "天气", "北京", "天气"]),
        ("ja", "猫を食べた", ["猫", "食", "猫を", "を食", "食べ", "べた", "猫", "食べる"]),
        ("ko", "먹었다", ["먹", "었", "다", "먹었", "었다", "먹"]),
    ],
)  # fmt: skip
def test_a_text_is_cut_by_the_scripts_of_its_words(language: Language, text: str, terms: list[str]) -> None:
    assert analyser(language).terms(text) == terms


@pytest.mark.parametrize(
    ("language", "query", "document"),
    [
        ("tr", "ışık", "Işık"),
        ("tr", "ırmak", "IRMAK"),
        ("auto", "ısparta", "Isparta"),
        ("auto", "beyonce", "Beyoncé"),
        ("en", "resume", "résumé"),
        ("ko", "proteges", "protégés"),
        ("fr", "soeurs", "sœurs"),
        ("pl", "zloty", "złoty"),
        ("da", "smorrebrod", "smørrebrød"),
    ],
)
def test_a_letter_that_its_capital_or_a_keyboard_writes_as_another_is_found(
    language: Language, query: str, document: str
) -> None:
    """The capital of ı is I, whose small letter is i to Unicode: no sentence that began with `Işık` was found."""
    assert analyser(language).terms(query) == analyser(language).terms(document) != []
    assert analyser(language).marks(query, document) == [(0, len(document))]


@pytest.mark.parametrize("language", ["auto", "zh", "ja", "ko", "de"])
@given(text=st.text(alphabet=st.sampled_from("ab 1_é北京ｶﾞがんカー서울은\u0301\u00ad\0ภ.\n")))
@settings(max_examples=60, deadline=None)
def test_terms_with_spans_are_the_terms_and_stand_within_the_text(language: Language, text: str) -> None:
    words = analyser(language).words(text)
    assert [word.term for word in words] == analyser(language).terms(text)
    assert all(0 <= word.start < word.end <= len(text) for word in words)
    marks = analyser(language).marks(text, text)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(marks))


@pytest.mark.parametrize("language", ["zh", "ja", "ko"])
def test_a_long_text_is_cut_in_parts_and_loses_nothing(language: Language) -> None:
    text = "北京カメラ서울" * 3000
    words = analyser(language).words(text)
    assert max(word.end for word in words) == len(text)
    assert len(words) > 3000 * 9


@pytest.mark.parametrize("language", list(DICTIONARIES))
def test_a_language_without_its_extra_names_the_line_that_installs_it(
    language: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("rjieba", "sudachipy", "mecab"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InvalidInput, match=rf"language={language} .*; pip install 'rrad-ray\[{language}\]'"):
        Analyser(language)
    assert Analyser("auto").terms("北京") == ["北", "京", "北京"], "auto never needs one"


def test_every_language_has_a_way_and_auto_says_which_it_takes() -> None:
    assert {"auto", *DICTIONARIES, *SNOWBALL} == set(get_args(Language))
    assert all(Analyser(language).terms("Häuser") for language in SNOWBALL)
    assert chosen("auto", ["서울은 큰 도시", "ab"]) == (
        "auto, by script: 75% Hangul (characters and pairs), 25% Latin (stems of english)"
    )
    assert chosen("ko", []) == "ko: words of a dictionary beside characters and their pairs"
    assert chosen("de", []) == "de: stems of german; other scripts by their own"


# The goals for queries of these sets, and what BM25 with English stems reached on those in English before.
GOALS = {
    ("xquad-zh-sentences", "zh"): 0.85, ("xquad-zh-sentences", "auto"): 0.84,
    ("jaquad-sentences", "ja"): 0.755, ("jaquad-sentences", "auto"): 0.745,
    ("klue-nli-ko", "ko"): 0.82, ("klue-nli-ko", "auto"): 0.81,
    ("xquad-sentences", "auto"): 0.8879, ("cranfield", "auto"): 0.4097, ("cosqa", "auto"): 0.3417,
}  # fmt: skip


@pytest.mark.parametrize(("name", "language"), GOALS)
def test_bm25_finds_in_every_language(name: str, language: Language) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is not on this machine")
    collection = read_collection(str(DATA / name))
    index, ids = BM25Index(list(collection.corpus.values()), language), list(collection.corpus)
    tests = [query for query in collection.queries if query.split == "test"]
    total = 0.0
    for query in tests:
        ranked = [ids[number] for number in top_k(index.scores(query.text), 10)]
        total += ndcg([query.judged.get(doc, 0) for doc in ranked], list(query.judged.values()))
    assert total / len(tests) >= GOALS[name, language]


def test_words_that_clients_make_up_do_not_fill_the_memory() -> None:
    cutter = Analyser("auto")
    scripts._script_of.cache_clear()
    for number in range(10):
        for word in ("a" * 8000, "б" * 8000):
            assert cutter.stem(f"{word}{number}") == f"{word}{number}"
    assert cutter.kept_stem.cache_info().currsize == 0
    assert scripts._script_of.cache_info().currsize == 1
    assert (cutter.stem("opening"), cutter.kept_stem.cache_info().currsize) == ("open", 1)
