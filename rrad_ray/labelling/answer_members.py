"""Read JSON members that give identifiers scores or ranks: objects, pairs, and lists beside each other."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rrad_ray.labelling.answer_markup import BRACKETED_ID, number_in
from rrad_ray.labelling.answer_verdicts import by_merit, score_level, value_of, verdict_of
from rrad_ray.labelling.answer_words import COST, RANK, SCORE

ORDER_NAME = re.compile(
    r".*(?:rank|order|sort|answer|result|permutation|output|top|排|순위|順位).*|relevant\w*|passages?|documents?|docs?|items?|list|ids?"
)
LIST_NAME = re.compile(r"passages?|documents?|docs?|items?|list|ids?")  # beside a ranking, what was shown
IDS_NAME = re.compile(
    rf"(?:(?:{LIST_NAME.pattern}|candidates?)_)?(?:ids?|index(?:es)?|indices|numbers?|identifiers?)|"
    rf"{LIST_NAME.pattern}|candidates?"
)
RANKS_NAME = re.compile(
    r"(?:\w+_)?(?:ranks|positions|places)|(?:rank|position|place)s?_(?:of|for|per)_(?:each_)?(?:doc|passage|item|text)\w*"
)


def scored_pairs(value: Sequence[Any], n: int) -> list[int] | None:
    """Return the order of pairs of an identifier and its score (`[[1, 0.2], [2, 0.9]]`), also the other way round;
    None for another list. Where the scores may be ranks, the order is empty: not understood."""
    if len(value) < 2 or not all(isinstance(item, list) and len(item) == 2 for item in value):
        return None
    for at in (0, 1):
        numbers = [number_in(item[at]) for item in value]
        scores = [item[1 - at] for item in value]
        known = [number for number in numbers if number is not None and 1 <= number <= n]
        if len(set(known)) < len(value) or not all(isinstance(score, int | float) for score in scores):
            continue
        if set(scores) == set(range(1, len(value) + 1)):
            return []
        if set(scores) <= set(range(1, n + 1)) and {*known}.isdisjoint(scores):
            return None  # groups of two
        order = sorted(range(len(value)), key=lambda index: -scores[index])
        return [known[index] for index in order]
    return None


def by_key(members: Mapping[str, Any], scored: bool = False) -> list[int] | None:
    """Return the order of an object whose keys are numbers: identifiers with scores, or ranks with identifiers.

    `{"1": 3, "2": 1, "3": 2}` may be either, and `{"[1]": 3, "[2]": 1, "[3]": 2}` has ranks or scores, unless it is
    `scored`: no order.
    """
    keys = [number_in(key) for key in members]
    if None in keys:
        return None
    if all(isinstance(item, str) and BRACKETED_ID.match(item) for item in members.values()):
        ranks = sorted(zip(keys, members.values(), strict=True), key=lambda pair: pair[0] or 0)
        return [number for _, item in ranks if (number := number_in(item)) is not None]
    scores = [value_of(item) for item in members.values()]
    if not scored and set(scores) == set(range(1, len(keys) + 1)) and any("[" in key for key in members):
        return []  # ranks, perhaps
    if None in scores or (set(scores) == set(keys) and not any("[" in key for key in members)):
        return None
    binary = all(isinstance(item, bool) for item in members.values()) and len(set(scores)) == 2
    ranked = sorted(zip(keys, scores, strict=True), key=lambda pair: -(pair[1] or 0.0))
    return [key for key, score in ranked if key and (score or not binary)]


def by_rank(key: str, item: Any) -> list[int]:
    """Return the order of a member that names the rank of each identifier: `"ranking": {"[1]": 2, "[2]": 1}`."""
    if not isinstance(item, dict) or not (are_named(RANK, key) or RANKS_NAME.fullmatch(key)):
        return []
    ids, ranks = [number_in(one) for one in item], list(item.values())
    if not all("[" in one for one in item) or ranks != [each for each in ranks if type(each) is int]:
        return []
    ranked = sorted(zip(ranks, ids, strict=True), key=lambda pair: pair[0])
    return [number for _, number in ranked if number is not None]


def by_parallel_lists(members: Mapping[str, Any]) -> list[int] | None:
    """Return the order of a list of documents by the list of their scores or ranks beside it (`{"ids": [1, 2],
    "scores": [5, 9]}`); None without such. A ranking in the order shown that its scores do not confirm is none."""
    for key, item in members.items():
        numbers = [number_in(each) for each in item] if isinstance(item, list) else []
        plain = IDS_NAME.fullmatch(key) is not None
        known = [number for number in numbers if number is not None]
        as_shown = known == list(range(1, len(known) + 1))
        if len(known) < 2 or len(known) < len(numbers) or not (plain or (as_shown and ORDER_NAME.fullmatch(key))):
            continue
        others = {name: each for name, each in members.items() if name != key and isinstance(each, list)}
        beside = {name: others[name] for name in sorted(others, key=score_level)}
        for kind, (name, values) in itertools.product((RANK, SCORE, COST), beside.items()):
            if len(values) == len(known) and are_named(kind, name):
                order = by_merit([verdict_of(value) for value in values], ranks=kind is not SCORE)
                if order is None or not (plain or order == list(range(len(known)))):
                    return []
                return [known[index] for index in order]
    return None


def is_named(kind: re.Pattern[str], name: str) -> bool:
    """Tell whether a name is of a kind; what names a cost names no score: `irrelevance_score`."""
    return kind.fullmatch(name) is not None and (kind is not SCORE or not COST.fullmatch(name))


def are_named(kind: re.Pattern[str], name: str) -> bool:
    """Tell whether a name is of a kind, as it stands or without the `s` of a plural."""
    return is_named(kind, name) or is_named(kind, name.removesuffix("s"))
