"""Words of Chinese, Japanese and Korean, by analysers that have a dictionary: the extras `zh`, `ja` and `ko`.

Each is a function from a text to its words that carry meaning, with their spans.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import regex

from rrad_ray.errors import InvalidInput

Word = tuple[str, int, int]  # the form that is compared, start and end
Cut = Callable[[str], list[Word]]

# Sudachi takes 49,149 bytes at most, and MeCab's time grows with the square of a text without an end.
_PART = regex.compile(r"(?s).{1,4000}(?:(?<=[。．.!?\n])|(?<=\s)|$)|.{1,4000}")


def _chinese() -> Cut:
    import rjieba

    return lambda text: rjieba.tokenize(text, "default", False)


def _japanese() -> Cut:
    import sudachipy

    tagger = sudachipy.Dictionary().tokenizer(mode=sudachipy.SplitMode.A)
    left_out = {"助詞", "助動詞", "補助記号", "空白", "記号"}

    def cut(text: str) -> list[Word]:
        return [
            (each.normalized_form().lower(), each.begin(), each.end())
            for each in tagger.tokenize(text)
            if each.part_of_speech()[0] not in left_out
        ]

    return cut


def _korean() -> Cut:
    import mecab

    tagger = mecab.MeCab()
    left_out = ("J", "E", "S", "XSV", "XSA", "XSN", "VCP")  # particles, endings, signs, and what makes nouns verbs

    def cut(text: str) -> list[Word]:
        return [
            (each.surface, each.span.start, each.span.end)
            for each in tagger.parse(text.replace("\0", " "))  # to MeCab a text ends there
            if not all(part.startswith(left_out) for part in each.feature.pos.split("+"))
        ]

    return cut


DICTIONARIES: dict[str, tuple[Callable[[], Cut], str]] = {
    "zh": (_chinese, "rjieba"),
    "ja": (_japanese, "sudachipy and sudachidict-core"),
    "ko": (_korean, "python-mecab-ko"),
}


def dictionary_words(language: str) -> Cut:
    """Return what cuts a text of this language into words. Raises `ValueError` where its extra is not installed."""
    load, packages = DICTIONARIES[language]
    try:
        cut = load()
    except ImportError as error:
        problem = f"language={language} cuts words by {packages}, which this environment lacks"
        raise InvalidInput(problem, f"pip install 'rrad-ray[{language}]', or write language=auto") from error
    lock = threading.Lock()  # none of them says that it may be called from several threads

    def parts(text: str) -> Iterator[Word]:
        for part in _PART.finditer(text):
            for word, start, end in cut(part.group()):
                yield word, start + part.start(), end + part.start()

    def locked(text: str) -> list[Word]:
        with lock:
            return list(parts(text))

    return locked
