"""The words of a query, also in scripts without spaces between words. Only the standard library."""

from __future__ import annotations

import math
import re
import unicodedata

# Han, with its extensions, and kana.
_UNSPACED = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]+"
)
_WORD = re.compile(r"\w+")


def query_words(text: str) -> tuple[str, ...]:
    """Return a query's words in lower case; of Chinese and Japanese, every two characters in a row.

    Accents that were typed apart from their letters count as one with them.
    """
    words = list[str]()
    for word in _WORD.findall(unicodedata.normalize("NFC", text).lower()):
        for run in _UNSPACED.findall(word):
            words += [run[start : start + 2] for start in range(max(1, len(run) - 1))]
        words += filter(None, _UNSPACED.split(word))
    return tuple(words)


def word_count(text: str) -> int:
    """Return the number of words between spaces; two characters of Chinese or Japanese count as a word."""
    count = 0
    for word in unicodedata.normalize("NFC", text).split():
        unspaced = sum(math.ceil(len(run) / 2) for run in _UNSPACED.findall(word))
        count += unspaced + any(map(_WORD.search, _UNSPACED.split(word))) if unspaced else 1
    return count
