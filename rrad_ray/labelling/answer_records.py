"""Read answers that are data: JSON, XML, tables (`answer_markup`), and lines (`answer_lines`).

They are read by meaning: a list named ranking or order is the order; scores sort the best first, ranks the lowest
first; what is named irrelevant is left out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rrad_ray.labelling.answer_chains import CUT, best_reading
from rrad_ray.labelling.answer_grades import grade_of
from rrad_ray.labelling.answer_json import as_json, json_values
from rrad_ray.labelling.answer_lines import NOT_UNDERSTOOD, read_lines
from rrad_ray.labelling.answer_markup import (
    ID,
    csv_rows,
    field_rows,
    identifier_of,
    leading_number,
    number_in,
    table_rows,
    tag_rows,
    with_markdown_tables,
)
from rrad_ray.labelling.answer_members import (
    IDS_NAME,
    LIST_NAME,
    ORDER_NAME,
    RANKS_NAME,
    are_named,
    by_key,
    by_parallel_lists,
    by_rank,
    is_named,
    scored_pairs,
)
from rrad_ray.labelling.answer_places import has_chain
from rrad_ray.labelling.answer_scales import lowest_is_best
from rrad_ray.labelling.answer_text import without_item_tags
from rrad_ray.labelling.answer_verdicts import Records, by_merit, score_level, value_of, verdict_of
from rrad_ray.labelling.answer_words import COST, NEGATIVE, RANK, SCORE, WORST_FIRST

_DEEPEST = 8
_FAILURE = re.compile(r"errors?|refusal|failure")
_SHOWN = re.compile(r"original|input|initial|before|example|shown|given")
_BEST = re.compile(
    r"(?:the_)?(?:best|top|first|winner|most_relevant|highest)(?:_(?:match|passage|document|doc|result|id|one|answer))?"
)
_REASONS = re.compile(r".*(?:reason|expla|analys|thought|comment|note|rationale|query|question|summary).*")
_TEXTS = re.compile(
    r".*(?:title|name|text|content|passage|snippet|url|source|topic|description|标题|제목|内容|내용).*"
)
_TIER = re.compile(r"(?:tier|level|group|bucket|rank)[ _-]?(\d{1,3})")
_DIRECTION = re.compile(r"(?:sort|order|direction|ranking)(?:ed|ing)?(?:_(?:order|by|direction))?")


def read_records(tagged: str, n: int) -> Records | None:
    """Return the order that an answer over `n` documents gives as data; None if it gives none so."""
    tagged = with_markdown_tables(tagged)
    text = without_item_tags(tagged)
    values = list(json_values(text)) or list(json_values(as_json(text)))
    for value, cut in reversed(values):
        if (numbers := _meaning(value, n, 0)) is not None:
            if not _ranks(value) and lowest_is_best(text, list(_figures(value))):
                return Records((), (), "scores of which the lowest is called the best")
            return _records(numbers, "JSON", *([CUT] if cut else []))
    if values and text.strip()[0] in "{[" and text.strip()[-1] in "}]" and not has_chain(text, n):
        return Records((), (), "JSON without an order")
    written = ((*table_rows(text), "table"), (*csv_rows(text), "table"), (*tag_rows(tagged), "XML"))
    for rows, rest, repair in (*written, (*field_rows(text), "named fields")):
        if not rows or has_chain(without_item_tags(rest), n):
            continue
        if (numbers := _sorted_records(rows, lowest_is_best(text, list(_figures(rows))))) is not None:
            return _records(numbers, repair)
    return read_lines(text, n)


def _records(numbers: Sequence[int], *repairs: str) -> Records:
    return Records(numbers, repairs, "" if numbers else NOT_UNDERSTOOD)


def _meaning(value: Any, n: int, depth: int) -> list[int] | None:
    """Return the identifiers of a JSON value, best first; None if it has no order."""
    if depth > _DEEPEST:
        return None
    if isinstance(value, str):
        reading = best_reading(value, n)
        return list(reading.numbers) if reading and not reading.problem else None
    if isinstance(value, list):
        return _list_meaning(value, n, depth)
    return _dict_meaning(value, n, depth) if isinstance(value, dict) else None


def _list_meaning(value: list[Any], n: int, depth: int) -> list[int] | None:
    if any(isinstance(item, dict) for item in value):
        return _sorted_records([item for item in value if isinstance(item, dict)])
    if (pairs := scored_pairs(value, n)) is not None:
        return pairs
    numbers: list[int] = []
    for item in value:
        if isinstance(item, list) or (isinstance(item, str) and number_in(item) is None):
            more = _meaning(item, n, depth + 1) or leading_number(item)
            if not more and re.search(r"\d", str(item)):
                return []  # what is left out here would count as irrelevant
            numbers += more
        elif (number := number_in(item)) is not None:
            numbers.append(number)
    return numbers or None


def _dict_meaning(value: dict[str, Any], n: int, depth: int) -> list[int] | None:
    """Return the order in an object: by its best named member, by scores of identifiers, or by scores in a list."""
    names = {key: re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower() for key in value}
    members = {name: value[key] for key, name in names.items() if not NEGATIVE.search(name.replace("_", " "))}
    if any(_FAILURE.fullmatch(key) and item for key, item in members.items()):
        return []
    if (tiers := _tiers(members, n, depth)) is not None:
        return tiers
    if members and all(number_in(key) is not None and isinstance(item, dict) for key, item in members.items()):
        return _sorted_records([{"id": key, **item} for key, item in members.items()])
    if (parallel := by_parallel_lists(members)) is not None:
        return parallel
    by_order = sorted(
        members,
        key=lambda key: (bool(_SHOWN.search(key)), not ORDER_NAME.fullmatch(key), bool(LIST_NAME.fullmatch(key))),
    )
    for key in by_order:
        item = members[key]
        usable = isinstance(item, list | dict) or (isinstance(item, str) and ORDER_NAME.fullmatch(key))
        if not usable or any(kind.fullmatch(key.removesuffix("s")) for kind in (_REASONS, SCORE, COST)):
            continue
        if (numbers := by_rank(key, item) or _meaning(item, n, depth + 1)) is not None:
            return [] if _names_more(members, key, numbers, n) else _as_named(numbers, key, item, members)
    if (number := identifier_of(value)) is not None:
        return [number]
    if members and all(number_in(key) is not None for key in members):
        return by_key(members)
    for key, item in members.items():
        if is_named(SCORE, key.removesuffix("s")):
            if isinstance(item, dict):
                return by_key(item, scored=True)
            if isinstance(item, list) and (pairs := scored_pairs(item, n)) is not None:
                return pairs
            if isinstance(item, list) and len(item) == n and all(value_of(score) is not None for score in item):
                return sorted(range(1, n + 1), key=lambda number: -(value_of(item[number - 1]) or 0.0))
    return None


def _names_more(members: Mapping[str, Any], key: str, numbers: Sequence[int], n: int) -> bool:
    """Tell whether members beside the order in member `key` name documents that it leaves out: the best one, or a
    list that is no list of what was shown (`{"best": 3, "others": [1, 2]}`)."""
    for name, item in members.items():
        ones = item if isinstance(item, list) else [item] if _BEST.fullmatch(name) else []
        ids = [number_in(one) for one in ones if not isinstance(one, bool)]
        known = {one for one in ids if one is not None and 1 <= one <= n}
        shown = IDS_NAME.fullmatch(name) or _SHOWN.search(name)
        judged = RANKS_NAME.fullmatch(name) or any(are_named(kind, name) for kind in (RANK, SCORE, COST))
        if name != key and len(known) == len(ones) and not (shown or judged) and not known <= {*numbers}:
            return True
    return False


def _as_named(numbers: list[int], key: str, item: Any, members: Mapping[str, Any]) -> list[int]:
    """Return the order in member `key`, best first. One that its name says to be worst first is turned round where it
    is a plain list, and else not understood, as is one whose direction another member gives."""
    if any(_DIRECTION.fullmatch(other) and WORST_FIRST.search(str(members[other])) for other in members):
        return []
    plain = isinstance(item, list) and all(number_in(each) is not None for each in item)
    if plain and RANKS_NAME.fullmatch(key):  # the rank of each document is an order too where it is its own inverse
        own = sorted(numbers) == list(range(1, len(numbers) + 1)) and all(
            numbers[number - 1] == rank for rank, number in enumerate(numbers, 1)
        )
        return numbers if own else []
    if not WORST_FIRST.search(key.replace("_", " ")):
        return numbers
    return numbers[::-1] if plain else []


def _tiers(members: Mapping[str, Any], n: int, depth: int) -> list[int] | None:
    """Return the documents of members that are named as grades or tiers, the best one's first; None without two."""
    graded = []
    for key, item in members.items():
        tier = _TIER.fullmatch(key)
        grade = -float(tier[1]) if tier else grade_of(re.sub(r"[_-]", " ", key))
        if grade is not None and isinstance(item, list | str):
            graded.append((grade, [] if grade == 0.0 else _meaning(item, n, depth + 1) or []))
    if sum(bool(numbers) for _, numbers in graded) < 2:
        return None
    return [number for _, numbers in sorted(graded, key=lambda pair: -pair[0]) for number in numbers]


def _ranks(value: Any) -> bool:
    """Tell whether a JSON value names ranks or an order, which begins with the best whatever is said of scores."""
    if isinstance(value, list):
        return any(map(_ranks, value))
    return isinstance(value, dict) and any(RANK.fullmatch(str(key)) or _ranks(item) for key, item in value.items())


def _figures(value: Any) -> Iterator[float]:
    """Give the numbers in a value, other than identifiers."""
    if isinstance(value, list):
        for item in value:
            yield from _figures(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, list | dict) or not ID.fullmatch(str(key)):
                yield from _figures(item)
    elif (figure := value_of(value)) is not None:
        yield figure


def _sorted_records(records: Sequence[Mapping[str, Any]], rising: bool = False) -> list[int] | None:
    """Return the identifiers of records by rank, by score or as they stand; None if they have none. `rising`: the
    lowest score is the best.

    Records in the order shown, with verdicts that are not understood, are no order: they give an empty list.
    """
    kept = []
    for record in records:
        lowered = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(key)).lower(): value for key, value in _flat(record)}
        number = identifier_of(lowered)
        relevant = next((value for key, value in lowered.items() if key in ("relevant", "is_relevant")), None)
        if number is not None and value_of(relevant) != 0.0:
            kept.append((number, lowered))
    if not kept:
        return None
    if all("index" in record for _, record in kept) and any(number == 0 for number, _ in kept):
        kept = [(number + 1, record) for number, record in kept]  # counted from 0, as programs do
    numbers, judged = [number for number, _ in kept], [record for _, record in kept]
    if _disagree(judged):
        return []
    order = _order_of_records(judged, rising)
    if order is not None:
        return [numbers[index] for index in order] or numbers
    as_shown = len(kept) > 1 and numbers == list(range(1, len(kept) + 1))
    return [] if as_shown and any(_judges(judged, name) for name in judged[0]) else numbers


def _flat(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give a record's members, those of an object in it by both names: `{"relevance": {"score": 9}}`."""
    for key, value in record.items():
        if isinstance(value, dict):
            yield from ((f"{key}_{name}", inner) for name, inner in value.items())
        else:
            yield key, value


def _order_of_records(records: Sequence[Mapping[str, Any]], rising: bool) -> list[int] | None:
    """Return the places of records, the best one's first, by their ranks, scores or other verdicts; None without."""
    for kind in (RANK, SCORE, COST):
        values = [
            next((record[key] for key in sorted(record, key=score_level) if is_named(kind, key)), None)
            for record in records
        ]
        order = by_merit([verdict_of(value) for value in values], ranks=rising or kind is not SCORE)
        if order is not None:
            return order
    for name in records[0]:
        verdicts = [verdict_of(record.get(name)) for record in records]
        numbers = all(verdict is not None and verdict.kind == "number" for verdict in verdicts)
        if _judges(records, name) and not numbers and (order := by_merit(verdicts)) is not None:
            return order
    return None


def _disagree(records: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether two scores, of which none counts more than the other, order records differently."""
    shared = [name for name in records[0] if is_named(SCORE, name) and all(name in record for record in records)]
    best = min(map(score_level, shared), default=0)
    columns = [[value_of(record[name]) for record in records] for name in shared if score_level(name) == best]
    for one, two in itertools.combinations(columns, 2):
        known = [(a, b) for a, b in zip(one, two, strict=True) if a is not None and b is not None]
        if len(known) == len(records) and any(
            (a - c) * (b - d) < 0 for (a, b), (c, d) in itertools.combinations(known, 2)
        ):
            return True
    return False


def _judges(records: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Tell whether a member says different things of records, in numbers or a few words, and is no text or reason."""
    if ID.fullmatch(name) or _REASONS.fullmatch(name) or _TEXTS.fullmatch(name):
        return False
    values = [record.get(name) for record in records]
    short = all(
        isinstance(value, int | float) or (isinstance(value, str) and 0 < len(value) < 25) for value in values
    )
    return short and len(set(values)) > 1
