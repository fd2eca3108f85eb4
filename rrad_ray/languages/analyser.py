"""The one analyser: a text to the terms by which it is found, marked, and compared with a query.

BM25 scores these terms, the search page marks them, and Token Selection selects their tokens. Runs of scripts with
spaces give words, stemmed by Snowball; other scripts and Korean give characters and pairs of them, which need no
dictionary and cut Chinese, Japanese and mixed text alike (McNamee and Mayfield, 2004, compare such n-grams with
words). `zh`, `ja` and `ko` add the words of a dictionary to them: a pair that is a word counts twice.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import Stemmer

from rrad_ray.languages import Language, scripts
from rrad_ray.languages.morphology import DICTIONARIES, dictionary_words
from rrad_ray.languages.scripts import CJ, CUT, HAN, HIRAGANA, KO, RUN, SEA, WORD

SNOWBALL = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "eo": "esperanto", "es": "spanish", "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish",
    "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian", "hy": "armenian", "id": "indonesian",
    "it": "italian", "lt": "lithuanian", "ne": "nepali", "nl": "dutch", "no": "norwegian", "pl": "polish",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish", "ta": "tamil",
    "tr": "turkish", "yi": "yiddish",
}  # fmt: skip
# The language whose stems a script has where no language of that script is named.
USUAL = {"LATIN": "en", "CYRILLIC": "ru", "GREEK": "el", "ARABIC": "ar", "DEVANAGARI": "hi", "TAMIL": "ta"}
USUAL |= {"ARMENIAN": "hy", "HEBREW": "yi"}
SCRIPTS = {language: script for script, language in USUAL.items()}
SCRIPTS |= {"fa": "ARABIC", "ne": "DEVANAGARI", "sr": "CYRILLIC"}  # of other languages: LATIN

STOPWORDS = {  # the lists of bm25s
    "en": "EN", "da": "DANISH", "de": "GERMAN", "es": "SPANISH", "fr": "FRENCH", "it": "ITALIAN", "nl": "DUTCH",
    "no": "NORWEGIAN", "pt": "PORTUGUESE", "ru": "RUSSIAN", "sv": "SWEDISH", "tr": "TURKISH",
}  # fmt: skip

KEPT_CHARS = 64  # of a word whose stem is kept

ASCII_WORD = re.compile(r"\w\w+")
PAIRED, THREES = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL"}, {"THAI", "LAO", "KHMER", "MYANMAR"}
SIZES = {CJ: (1, 2), KO: (1, 2), SEA: (3,)}  # characters of a term
# Of Korean, written at the end of a noun, one or two of them. Two syllables stay: 사과, an apple, ends like one.
PARTICLES = re.compile(
    "(?<=..)(?:에서부터|으로부터|이라도|에게서|한테서|까지|부터|에서|에게|한테|으로|처럼|보다|마다|조차|마저|밖에|"
    "이나|이랑|하고|라도|은|는|이|가|을|를|의|에|로|와|과|도|만|께|랑|나){1,2}$"
)
ENDINGS = 2  # as many characters of Hiragana, or fewer, are mostly an ending


class Term(NamedTuple):
    """A term and its span in the text. `whole`: it is not cut from a longer word, or its script's run."""

    term: str
    start: int
    end: int
    whole: bool = True


class Analyser:
    """The analyser of a language; `auto`: of all, by the script of each word. Use `analyser`, which keeps them.

    Raises `ValueError` for `zh`, `ja` or `ko` without the extra of that name.
    """

    def __init__(self, language: Language = "auto") -> None:
        by_script = {**USUAL, SCRIPTS.get(language, "LATIN"): language} if language in SNOWBALL else USUAL
        self.stemmers = {script: Stemmer.Stemmer(SNOWBALL[name]) for script, name in by_script.items()}
        self.stopwords = {script: _stopwords(name) for script, name in by_script.items()}
        self.marked = by_script["LATIN"] != "en"  # a Latin language whose endings have marks of their own
        self.dictionary = dictionary_words(language) if language in DICTIONARIES else None
        self.kept_stem = functools.lru_cache(maxsize=1 << 17)(self._stem)

    def stem(self, word: str) -> str:
        """Return a word's stem as `_stem` does, and keep it; not that of a long word, since clients could fill the
        memory with invented ones."""
        return self.kept_stem(word) if len(word) <= KEPT_CHARS else self._stem(word)

    def _stem(self, word: str) -> str:
        """Return a word's stem, without the marks on Latin letters; empty for a stop word."""
        script = scripts.script(word) if not word.isascii() else "LATIN"
        if script not in self.stemmers:
            return word
        if word in self.stopwords[script]:
            return ""
        if script != "LATIN":
            return self.stemmers[script].stemWord(word)
        # English endings have no marks: Beyoncé and beyonce must lose the same letters.
        stem = self.stemmers[script].stemWord(word if self.marked else scripts.without_marks(word))
        return scripts.without_marks(stem)

    def terms(self, text: str) -> list[str]:
        """Return the terms of a text, each as often as it has them."""
        if text.isascii() and not self.dictionary:
            return [stem for word in ASCII_WORD.findall(text.lower()) if (stem := self.stem(word))]
        return [term for term, *_ in self._cut(scripts.normalized(text)[0])]

    def words(self, text: str) -> list[Term]:
        """Return the terms of a text with their spans in it."""
        plain, spans = scripts.normalized(text)
        terms = [
            Term(term, start, end, _is_whole(plain, start, end, run)) for term, start, end, run in self._cut(plain)
        ]
        if not spans:
            return terms
        return [term._replace(start=spans[term.start][0], end=spans[term.end - 1][1]) for term in terms]

    def _cut(self, text: str) -> Iterator[tuple[str, int, int, tuple[int, int]]]:
        """Yield the terms of a normalized text with their spans, and the span of the run that each is cut from."""
        for kind, start, end in scripts.runs(text):
            if kind == WORD:
                if (end - start > 1 or CUT.search(text, max(0, start - 1), end + 1)) and (
                    stem := self.stem(text[start:end])
                ):
                    yield stem, start, end, (start, end)
                continue
            if kind == KO:
                end = start + len(PARTICLES.sub("", text[start:end]))
            for size in [size for size in SIZES[kind] if size <= end - start] or [end - start]:
                for at in range(start, end - size + 1):
                    if size > 1 or not HIRAGANA.match(text, at):
                        yield text[at : at + size], at, at + size, (start, end)
        for word, start, end in self.dictionary(text) if self.dictionary else ():
            if RUN.search(text, start, end):
                yield word, start, end, (start, end)

    def marks(self, query: str, text: str) -> list[tuple[int, int]]:
        """Return the spans of a text that match terms of the query, in order and apart.

        A single character of a script without spaces counts where the query has it as a word (猫 matches in 黒猫),
        in Korean where the text has it as a word too. Not marked are one or
        two characters of Hiragana, which are mostly endings.
        """
        asked = _asked(self, query)
        spans = (
            (start, end)
            for term, start, end, whole in self.words(text)
            if term in asked and (len(term) > 1 or (asked[term] and (whole or HAN.match(term))))
        )
        return [span for span in united(spans) if span[1] - span[0] > ENDINGS or not HIRAGANA.fullmatch(text, *span)]


def united(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans in order, those that overlap as one."""
    apart = list[tuple[int, int]]()
    for start, end in sorted(spans):
        if apart and start < apart[-1][1]:
            start, end = apart[-1][0], max(end, apart.pop()[1])
        apart.append((start, end))
    return apart


@functools.lru_cache(maxsize=128)  # a query is asked for with each of its documents
def _asked(analyser: Analyser, query: str) -> dict[str, bool]:
    """Return the terms of a query, and whether it has one whole."""
    asked: dict[str, bool] = {}
    for term in analyser.words(query):
        asked[term.term] = asked.get(term.term, False) or term.whole
    return asked


def _stopwords(language: str) -> frozenset[str]:
    from bm25s import stopwords  # it loads Numba

    return frozenset(getattr(stopwords, f"STOPWORDS_{STOPWORDS[language]}")) if language in STOPWORDS else frozenset()


def _is_whole(text: str, start: int, end: int, run: tuple[int, int]) -> bool:
    """Return whether a term is all of its run, or a Han character without another beside it."""
    if end - start == 1 and HAN.match(text, start):
        return not HAN.search(text, max(0, start - 1), start) and not HAN.match(text, end)
    return (start, end) == run


@functools.cache
def analyser(language: Language = "auto") -> Analyser:
    """Return this process's analyser of a language. Raises `ValueError` as `Analyser` does."""
    return Analyser(language)


def chosen(language: Language, texts: Iterable[str]) -> str:
    """Return in words how texts of this language are cut; with `auto`, by the scripts of the first of them."""
    if language in DICTIONARIES:
        return f"{language}: words of a dictionary beside characters and their pairs"
    if language != "auto":
        return f"{language}: stems of {SNOWBALL[language]}; other scripts by their own"
    shares = scripts.shares(texts)
    parts = [f"{share:.0%} {script.title()} ({_way(script)})" for script, share in shares.items() if share >= 0.01]
    return f"auto, by script: {', '.join(parts) or 'no letters'}"


def _way(script: str) -> str:
    """Return how words of a script are cut where no language of it is named."""
    if script in USUAL:
        return f"stems of {SNOWBALL[USUAL[script]]}"
    return "characters and pairs" if script in PAIRED else "threes of letters" if script in THREES else "whole words"
