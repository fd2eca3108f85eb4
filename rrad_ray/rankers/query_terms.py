"""Token Selection and the Term Control Layer of RRA-BERT (Choi et al., 2024): at training only.

The paper's abstract says that both are there and why (term matching is forced into the dense representation); their
form is our reading of it. A saved student holds neither.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from dataclasses import dataclass

HAN, HIRAGANA, KATAKANA, WORD = "han", "hiragana", "katakana", "word"

SCRIPTS = {  # where nothing stands between words; as in a regular expression's class
    HAN: "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
    HIRAGANA: "\u3041-\u309f",
    KATAKANA: "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f",
}

GRAM = {HAN: 2, HIRAGANA: 3, KATAKANA: 3}  # characters of a term there

# What Korean hangs on a noun; the longest is found first.
PARTICLES = re.compile(
    "(?<=.)(?:에서부터|으로부터|이라도|에게서|한테서|까지|부터|에서|에게|한테|으로|처럼|보다|마다|조차|마저|밖에|"
    "이나|이랑|하고|라도|은|는|이|가|을|를|의|에|로|와|과|도|만|께|랑|나)$"
)


@functools.cache
def pattern() -> re.Pattern[str]:
    """Finds the next run of characters of one kind, the group that is named after it.

    `word`: letters, marks (without them a Hindi word would fall apart) and digits of all scripts but those above.

    >>> [(found.lastgroup, found.group()) for found in pattern().finditer("sort_keys: 並べ")]
    [('word', 'sort'), ('word', 'keys'), ('han', '並'), ('hiragana', 'べ')]
    """
    marks = "".join(char for char in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(char)[0] == "M")
    apart = "|".join(f"(?P<{script}>[{chars}]+)" for script, chars in SCRIPTS.items())
    return re.compile(f"{apart}|(?P<{WORD}>(?:[^\\W_{''.join(SCRIPTS.values())}]|[{marks}])+)")


@functools.lru_cache(maxsize=1 << 16)
def forms(word: str) -> tuple[str, ...]:
    """A word after NFKC and lower-casing, then without one and without two of the Korean particles at its end.

    >>> forms("서울에서는"), forms("Sort")
    (('서울에서는', '서울에서', '서울'), ('sort',))
    """
    found = [unicodedata.normalize("NFKC", word).lower()]
    while len(found) < 3 and (shorter := PARTICLES.sub("", found[-1])) != found[-1]:
        found.append(shorter)
    return tuple(found)


@dataclass(frozen=True)
class Terms:
    """What a query asks for: `words`, the same with and without particles (`stems`), and `grams` by script."""

    words: frozenset[str]
    stems: frozenset[str]
    grams: dict[str, frozenset[str]]

    def length(self, word: str) -> int:
        """How many characters of a document's word match, from its start.

        A stem of one syllable counts only where the query or the document has it as a word of its own: too many
        words are alike without their last syllable (사과, an apple, and 사이, between).
        """
        whole, *shorter = forms(word)
        if whole in self.stems:
            return len(word)
        for form in shorter:
            if form in self.words or (form in self.stems and len(form) > 1):
                # Where normalising has changed the number of characters, the word counts as a whole.
                return len(form) if len(whole) == len(word) else len(word)
        return 0


@functools.lru_cache(maxsize=4096)  # a query stands beside each of its documents
def terms(query: str) -> Terms:
    """The terms of a query: see `matched`."""
    words, stems = set[str](), set[str]()
    grams: dict[str, set[str]] = {}
    for found in pattern().finditer(query):
        script, run = str(found.lastgroup), found.group()
        if script == WORD:
            words.add(forms(run)[0])
            stems.update(forms(run))
        elif script != HIRAGANA or len(run) >= GRAM[script]:
            size = min(GRAM[script], len(run))
            grams.setdefault(script, set()).update(run[i : i + size] for i in range(len(run) - size + 1))
    return Terms(frozenset(words), frozenset(stems), {script: frozenset(found) for script, found in grams.items()})


def matched(query: str, text: str) -> bytearray:
    """1 for every character of a text that belongs to a term of the query, 0 for the others.

    A term is a run of letters, marks and digits, compared after NFKC and lower-casing. Korean particles at its end do
    not count: 서울에서 matches 서울은, in its first two syllables. Chinese and Japanese put nothing between words;
    there a run of one script is compared by its pairs of Han characters, and by threes of Hiragana or Katakana; a
    shorter run of the query is a term by itself (猫 matches in 黒猫), but in Hiragana it is left out: a particle or
    an ending. Thai, Lao, Khmer and Burmese are not cut into words: a whole run must match.
    """
    wanted, hit = terms(query), bytearray(len(text))
    for found in pattern().finditer(text):
        start = found.start()
        if found.lastgroup == WORD:
            size = wanted.length(found.group())
            hit[start : start + size] = b"\1" * size
            continue
        grams, run = wanted.grams.get(str(found.lastgroup), frozenset()), found.group()
        for size in {len(gram) for gram in grams}:
            for place in range(len(run) - size + 1):
                if run[place : place + size] in grams:
                    hit[start + place : start + place + size] = b"\1" * size
    return hit
