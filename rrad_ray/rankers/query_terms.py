"""Terms of a query and where they stand in a text, in many scripts: the basis of Token Selection (`term_control`)."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from dataclasses import dataclass

HAN, HIRAGANA, KATAKANA, WORD = "han", "hiragana", "katakana", "word"

SCRIPTS = {  # scripts that put nothing between words, each as a character class of a regular expression
    HAN: "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
    HIRAGANA: "\u3041-\u309f",
    KATAKANA: "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f",
}

GRAM = {HAN: 2, HIRAGANA: 3, KATAKANA: 3}  # characters of a term in these scripts

# Korean particles, written at the end of a noun. The longest one matches, because it begins first.
PARTICLES = re.compile(
    "(?<=.)(?:에서부터|으로부터|이라도|에게서|한테서|까지|부터|에서|에게|한테|으로|처럼|보다|마다|조차|마저|밖에|"
    "이나|이랑|하고|라도|은|는|이|가|을|를|의|에|로|와|과|도|만|께|랑|나)$"
)


@functools.cache
def pattern() -> re.Pattern[str]:
    """Return the expression that matches a run of characters of one kind, in the group named after the kind.

    The kinds are `SCRIPTS` and `word`: letters, marks (without them a Hindi word would fall apart) and digits of all
    other scripts.

    >>> [(run.lastgroup, run.group()) for run in pattern().finditer("sort_keys: 並べ")]
    [('word', 'sort'), ('word', 'keys'), ('han', '並'), ('hiragana', 'べ')]
    """
    marks = "".join(char for char in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(char)[0] == "M")
    apart = "|".join(f"(?P<{script}>[{chars}]+)" for script, chars in SCRIPTS.items())
    return re.compile(f"{apart}|(?P<{WORD}>(?:[^\\W_{''.join(SCRIPTS.values())}]|[{marks}])+)")


@functools.lru_cache(maxsize=1 << 16)
def forms(word: str) -> tuple[str, ...]:
    """Return a word after NFKC and lower-casing, then without one and without two of the Korean particles at its end.

    >>> forms("서울에서는"), forms("Sort")
    (('서울에서는', '서울에서', '서울'), ('sort',))
    """
    normalized = [unicodedata.normalize("NFKC", word).lower()]
    while len(normalized) < 3 and (shorter := PARTICLES.sub("", normalized[-1])) != normalized[-1]:
        normalized.append(shorter)
    return tuple(normalized)


@dataclass(frozen=True)
class Terms:
    """The terms of a query: its `words`, these with and without particles (`stems`), and its `grams` by script."""

    words: frozenset[str]
    stems: frozenset[str]
    grams: dict[str, frozenset[str]]

    def length(self, word: str) -> int:
        """Return how many characters of a document's word match, counted from its start.

        A stem of one syllable counts only where the query or the document has it as a word of its own: too many
        words are alike without their last syllable (사과, an apple, and 사이, between).
        """
        whole, *shorter = forms(word)
        if whole in self.stems:
            return len(word)
        for form in shorter:
            if form in self.words or (form in self.stems and len(form) > 1):
                # NFKC may change the number of characters; then the form's length says nothing about the word's.
                return len(form) if len(whole) == len(word) else len(word)
        return 0


@functools.lru_cache(maxsize=4096)  # a query is asked for with each of its documents
def terms(query: str) -> Terms:
    """Return the terms of a query, as `matched` defines them."""
    words, stems = set[str](), set[str]()
    grams: dict[str, set[str]] = {}
    for match in pattern().finditer(query):
        script, run = str(match.lastgroup), match.group()
        if script == WORD:
            words.add(forms(run)[0])
            stems.update(forms(run))
        elif script != HIRAGANA or len(run) >= GRAM[script]:
            size = min(GRAM[script], len(run))
            grams.setdefault(script, set()).update(run[i : i + size] for i in range(len(run) - size + 1))
    return Terms(frozenset(words), frozenset(stems), {script: frozenset(runs) for script, runs in grams.items()})


def matched(query: str, text: str) -> bytearray:
    """Return a mask over the characters of a text: 1 where one belongs to a term of the query, 0 elsewhere.

    A term is a run of letters, marks and digits, compared after NFKC and lower-casing. Korean particles at its end do
    not count: 서울에서 matches 서울은, in its first two syllables. Chinese and Japanese put nothing between words:
    there the terms of a run of one script are its pairs of Han characters, or its threes of Hiragana or Katakana. A
    shorter run of the query is a term by itself (猫 matches in 黒猫), but not in Hiragana, where it is a particle or
    an ending. Thai, Lao, Khmer and Burmese are not cut into words: a whole run must match.
    """
    query_terms, hit = terms(query), bytearray(len(text))
    for match in pattern().finditer(text):
        start, run = match.start(), match.group()
        if match.lastgroup == WORD:
            size = query_terms.length(run)
            hit[start : start + size] = b"\1" * size
            continue
        grams = query_terms.grams.get(str(match.lastgroup), frozenset())
        for size in {len(gram) for gram in grams}:
            for offset in range(len(run) - size + 1):
                if run[offset : offset + size] in grams:
                    hit[start + offset : start + offset + size] = b"\1" * size
    return hit
