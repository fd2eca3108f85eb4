"""Text in one form, and its runs of characters that are cut into terms in the same way."""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

import regex

# Runs by what stands between words: nothing in Chinese and Japanese (`cj`) and in Thai, Lao, Khmer and Burmese
# (`sea`), and a space in all others. Korean has spaces, and particles at the ends of words (`ko`).
CJ, SEA, KO, WORD = "cj", "sea", "ko", "word"
_CLASSES = {
    CJ: r"\p{Han}\p{Hiragana}\p{Katakana}ー",
    SEA: r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}",
    KO: r"\p{Hangul}",
}
_APART = "|".join(f"(?P<{kind}>[{chars}]+)" for kind, chars in _CLASSES.items())
# `\w` of `regex` takes in combining marks, without which a Hindi word would fall apart.
RUN = regex.compile(rf"{_APART}|(?P<{WORD}>[\w--[{''.join(_CLASSES.values())}]]+)", regex.V1)
_PIECE = regex.compile(f"[{_CLASSES[CJ]}{_CLASSES[SEA]}]{{1,2}}|[^{_CLASSES[CJ]}{_CLASSES[SEA]}]+")
_LONG = 16  # letters that a tokenizer hardly ever takes for one token: addresses, Base64, compounds
_WORD = regex.compile(rf"[{_CLASSES[CJ]}{_CLASSES[SEA]}]{{1,2}}|[^\s{_CLASSES[CJ]}{_CLASSES[SEA]}]{{1,{_LONG}}}")
CUT = regex.compile(f"[{''.join(_CLASSES.values())}]")  # a character of a script that is not cut at spaces alone
HAN, HIRAGANA = regex.compile(r"\p{Han}"), regex.compile(r"\p{Hiragana}+")

# One form of each letter: of wide ones the plain one; of the Persian kaf and yeh those of Arabic keyboards, on which
# Persian is typed too.
_ALIKE = {0x3000: " ", **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}}
_ALIKE |= {0x06A9: "\u0643", 0x06CC: "\u064a"}
# Soft hyphens and joiners stand inside words and are not seen.
_UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"), "")
_FOLDED = _UNSEEN | _ALIKE
_TRADE = {0x2122: " ", 0x2120: " "}  # the marks of a brand, which NFKC makes letters of: Lego™ is lego, not legotm
_CLUSTER = regex.compile(r"\X")

SAMPLED = 2000  # documents whose letters `shares` counts


def normalized(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Return a text in lower case and NFKC, without characters that are not seen, and the span that each
    character has in the text; no spans where nothing has moved, or nothing is left.

    Width, ligatures and letters with marks typed apart make no difference then.

    >>> normalized("ｶﾞＢ")
    ('ガb', [(0, 2), (2, 3)])
    """
    if text.isascii():
        return text.lower(), []
    wide = text.translate(_ALIKE)
    lower = wide.lower()
    if len(lower) == len(text) and unicodedata.is_normalized("NFKC", wide) and lower.translate(_UNSEEN) == lower:
        return lower, []
    letters, spans = list[str](), list[tuple[int, int]]()
    for cluster in _CLUSTER.finditer(text):
        folded = unicodedata.normalize("NFKC", cluster.group().translate(_TRADE)).lower().translate(_FOLDED)
        letters.append(folded)
        spans += [cluster.span()] * len(folded)
    return "".join(letters), spans


def pieces(text: str) -> list[list[str]]:
    """Cut a text at white space, and each word of it again around every two characters of a script without spaces.

    >>> pieces("Python3 北京天气，好")
    [['Python3'], ['北京', '天气', '，', '好']]
    """
    return [[piece.group() for piece in _PIECE.finditer(word)] for word in text.split()]


def word_count(text: str) -> int:
    """Return the number of words between spaces; two characters of a script without spaces count as a word."""
    words = pieces(normalized(text)[0])
    return sum(max(1, sum(RUN.search(piece) is not None for piece in word)) for word in words)


def first_words(text: str, count: int) -> str:
    """Return the first words of a text, where no tokenizer is at hand to count tokens. Two characters of a script
    without spaces count as a word, and so does every piece of 16 of a longer one.

    >>> first_words("Python3  北京天气，好", 2)
    'Python3 北京'
    """
    end = 0
    for word in islice(_WORD.finditer(text), count):
        end = word.end()
    return " ".join(text[:end].split())


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return where each word of a text stands, words being those of `first_words`."""
    return [word.span() for word in _WORD.finditer(text)]


def query_words(text: str) -> tuple[str, ...]:
    """Return all words of a query in one form; of scripts without spaces, every two characters in a row.

    By them the online test knows a query again: nothing is stemmed or left out.
    """
    words = list[str]()
    for run in RUN.finditer(normalized(text)[0]):
        size = 2 if run.lastgroup in (CJ, SEA) else len(run.group())
        words += [run.group()[start : start + size] for start in range(max(1, len(run.group()) - size + 1))]
    return tuple(words)


# What a sentence ends with, and a space, in the scripts that have other marks than Latin's (in NFKC).
ENDS = " ?!.;" + "\u061f\u061b\u06d4\u0964\u0965\u3002\u055c\u055e\u0589\u17d4\u104b\u1362\u1367\u203d"


_APOSTROPHES = str.maketrans("\u2018\u2019\u02bc\u00b4`", "'" * 5)


def folded(text: str) -> str:
    """Return what two writings of one query have in common: neither case, white space, the kind of apostrophe nor the
    mark behind it count.

    >>> folded("How to  ADD?")
    'how to add'
    """
    lower = normalized(text)[0].casefold().replace("i\u0307", "i")  # the small letter of the Turkish capital İ
    plain = " ".join(lower.translate(_APOSTROPHES).split())
    return plain.rstrip(ENDS) or plain


def folded_digest(text: str) -> bytes:
    """Return eight bytes that stand for all writings of one query."""
    return hashlib.blake2b(folded(text).encode(errors="replace"), digest_size=8).digest()


def script(word: str) -> str:
    """Return the script of a word's first letter, as Unicode names it (LATIN, CYRILLIC); LATIN for none."""
    return _script_of(next(filter(str.isalpha, word), "a"))


@functools.lru_cache(maxsize=1 << 16)
def _script_of(letter: str) -> str:
    return unicodedata.name(letter, "LATIN").split()[0]


# Letters that Unicode takes for one piece, and keyboards and capitals for a plain one: I is the capital of ı too.
PLAIN = str.maketrans({"ı": "i", "ł": "l", "ø": "o", "đ": "d", "œ": "oe", "æ": "ae", "ß": "ss"})


def whole_characters(text: str) -> str:
    """Return a text with U+FFFD for halves of a character, as one has that was cut inside an emoji."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def without_marks(word: str) -> str:
    """Return a word without the marks on its letters: é is e, ł is l, and the ı without a dot is i."""
    if word.isascii():
        return word
    plain = word.translate(PLAIN)
    return "".join(char for char in unicodedata.normalize("NFD", plain) if not unicodedata.combining(char))


def shares(texts: Iterable[str]) -> dict[str, float]:
    """Return the share of each script among the letters of the first `SAMPLED` texts, the largest first."""
    counts = Counter[str]()
    for text in islice(texts, SAMPLED):
        for letter, count in Counter(filter(str.isalpha, text)).items():
            counts[script(letter)] += count
    return {name: count / counts.total() for name, count in counts.most_common()}


def runs(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the kind and the span of every run of a normalized text."""
    for run in RUN.finditer(text):
        yield str(run.lastgroup), *run.span()
