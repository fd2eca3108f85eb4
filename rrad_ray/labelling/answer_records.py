"""Read answers that are data: JSON, XML, Markdown tables, and lines (`answer_lines`).

They are read by meaning: a list named ranking or order is the order; scores sort the best first, ranks the lowest
first; what is named irrelevant is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rrad_ray.labelling.answer_chains import best_reading
from rrad_ray.labelling.answer_lines import NOT_UNDERSTOOD, Records, has_chain, read_lines
from rrad_ray.labelling.answer_verdicts import by_merit, grade_of, value_of, verdict_of
from rrad_ray.labelling.answer_words import ANY_NAME, NEGATIVE, RANK, SCORE

_ID = re.compile(
    r"(?:(?:passage|document|doc|text|item|candidate|snippet|article|result)s?[ _-]?)?"
    r"(?:id|identifier|index|number|no\.?)?|"
    "文档|文檔|文書|段落|文章|文書番号|문서|단락|ドキュメント|パッセージ",
    re.IGNORECASE,
)
_ORDER = re.compile(
    r".*(?:rank|order|sort|answer|result|permutation|output|top|排|순위|順位).*|relevant\w*|passages?|documents?|docs?|items?|list|ids?"
)
_SHOWN = re.compile(r"original|input|initial|before|example|shown|given")
_REASONS = re.compile(r".*(?:reason|expla|analys|thought|comment|note|rationale|query|question|summary).*")
_TEXTS = re.compile(
    r".*(?:title|name|text|content|passage|snippet|url|source|topic|description|标题|제목|内容|내용).*"
)
_TIER = re.compile(r"(?:tier|level|group|bucket|rank)[ _-]?(\d{1,3})")
_STARTS = re.compile(r"[{\[](?=\s*[\"{}\[\d-])")
_OBJECT = re.compile(r"\[?\s*[{\"]")
_FENCE = re.compile(r"```\w*\n?(.*?)(?:```|\Z)", re.DOTALL)
_ONE_ID = re.compile(rf"\W{{0,4}}(?:{ANY_NAME}\s?)?\W{{0,4}}(\d{{1,18}})(?:\.0)?\W{{0,4}}", re.IGNORECASE)
_BRACKETED_ID = re.compile(r"\W{0,4}\[\s?(\d{1,18})\s?\]")
_ROW = re.compile(r"^[ \t]*\|?(.*\|.*?)\|?[ \t]*$", re.MULTILINE)
_ELEMENT = re.compile(r"<\w{1,20}((?:\s+[\w-]{1,20}\s?=\s?\"[^\"<>\n]{0,200}\"){1,8})\s*/?>")
_ATTRIBUTE = re.compile(r"([\w-]{1,20})\s?=\s?\"([^\"]*)\"")
_FIELD = re.compile(r"^[ \t*•\-–]*([^\W\d][\w ]{0,30}?)[*_]*[ \t]?[:=][ \t]*([^\n]{1,60})$", re.MULTILINE)
_HEADER_NOTE = re.compile(r"\(.*?\)|\[.*?\]|\bout of \d+|/ ?\d+", re.IGNORECASE)
_RULE = re.compile(r"[\s|:\-–—+]+")
_MOST_STARTS, _DEEPEST = 50, 8
_ENDS = ("]", "}", "]}", "}]", "}]}", '"}]', '"}', '"]', '"]}', '"}]}')


def read_records(text: str, n: int) -> Records | None:
    """Return the order that an answer over `n` documents gives as data; None if it gives none so."""
    values = list(_json_values(text))
    for value in reversed(values):
        if (numbers := _meaning(value, n, 0)) is not None:
            return _records(numbers, "JSON")
    if values and text.strip()[0] in "{[" and text.strip()[-1] in "}]" and not has_chain(text, n):
        return Records((), (), "JSON without an order")
    for rows, rest, repair in ((*_table(text), "table"), (*_tags(text), "XML"), (*_fields(text), "named fields")):
        if rows and not has_chain(rest, n) and (numbers := _sorted_records(rows)) is not None:
            return _records(numbers, repair)
    return read_lines(text, n)


def _records(numbers: Sequence[int], repair: str) -> Records:
    return Records(numbers, (repair,), "" if numbers else NOT_UNDERSTOOD)


def _json_values(text: str) -> Iterator[Any]:
    """Give the JSON values in a text: the whole of it, what stands in code fences, objects and lists in prose."""
    body = text.strip()
    if not _STARTS.search(body):
        return
    bodies = [match[1].strip() for match in _FENCE.finditer(body)] or [body]
    for part in bodies:
        try:
            value = json.loads(part)
        except (ValueError, RecursionError):
            if _OBJECT.match(part) and (value := _cut_off(part)) is not None:
                yield value
            else:
                yield from _embedded(part)
        else:
            if isinstance(value, dict) or (isinstance(value, list) and (len(value) > 1 or _is_record(value))):
                yield value  # `[2]` is an identifier in brackets


def _cut_off(text: str) -> Any:
    """Return the value of JSON that ends too early; None if it is not JSON. A number at its end may lack digits."""
    whole = re.sub(r",?\s*-?\d[\d.]*\Z", "", text)
    for body in (whole, whole.rpartition(",")[0]):
        for end in _ENDS:
            try:
                return json.loads(body + end)
            except (ValueError, RecursionError):
                continue
    return None


def _is_record(value: Sequence[Any]) -> bool:
    return bool(value) and isinstance(value[0], dict)


def _embedded(text: str) -> Iterator[Any]:
    """Give the JSON objects and lists of objects that stand in a text; objects side by side are a list."""
    decoder, position, objects = json.JSONDecoder(), 0, list[Any]()
    for _ in range(_MOST_STARTS):
        start = _STARTS.search(text, position)
        if start is None:
            break
        try:
            value, position = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            position = start.end()
            continue
        if isinstance(value, dict):
            objects.append(value)
        elif isinstance(value, list) and _is_record(value):
            yield value
    if len(objects) > 1 and all(_identifier(item) is not None for item in objects):
        yield objects
    else:
        yield from objects


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
    numbers: list[int] = []
    for item in value:
        if isinstance(item, list) or (isinstance(item, str) and _number(item) is None):
            numbers += _meaning(item, n, depth + 1) or []
        elif (number := _number(item)) is not None:
            numbers.append(number)
    return numbers or None


def _dict_meaning(value: dict[str, Any], n: int, depth: int) -> list[int] | None:
    """Return the order in an object: by its best named member, by scores of identifiers, or by scores in a list."""
    members = {key.lower(): item for key, item in value.items() if not NEGATIVE.search(key.replace("_", " "))}
    if (tiers := _tiers(members, n, depth)) is not None:
        return tiers
    by_order = sorted(members, key=lambda key: (_SHOWN.search(key) is not None, not _ORDER.fullmatch(key)))
    for key in by_order:
        item = members[key]
        usable = isinstance(item, list | dict) or (isinstance(item, str) and _ORDER.fullmatch(key))
        if not usable or _REASONS.fullmatch(key) or SCORE.fullmatch(key.removesuffix("s")):
            continue
        if (numbers := _meaning(item, n, depth + 1)) is not None:
            return numbers
    if (number := _identifier(value)) is not None:
        return [number]
    if members and all(_number(key) is not None for key in members):
        return _by_key(members)
    for key, item in members.items():
        if SCORE.fullmatch(key.removesuffix("s")):
            if isinstance(item, dict):
                return _by_key(item)
            if isinstance(item, list) and len(item) == n and all(value_of(score) is not None for score in item):
                return sorted(range(1, n + 1), key=lambda number: -(value_of(item[number - 1]) or 0.0))
    return None


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


def _by_key(members: Mapping[str, Any]) -> list[int] | None:
    """Return the order of an object whose keys are numbers: identifiers with scores, or ranks with identifiers.

    `{"1": 3, "2": 1, "3": 2}` may be either, and is no order.
    """
    keys = [_number(key) for key in members]
    if None in keys:
        return None
    if all(isinstance(item, str) and _BRACKETED_ID.match(item) for item in members.values()):
        ranks = sorted(zip(keys, members.values(), strict=True), key=lambda pair: pair[0] or 0)
        return [number for _, item in ranks if (number := _number(item)) is not None]
    scores = [value_of(item) for item in members.values()]
    if None in scores or (set(scores) == set(keys) and not any("[" in key for key in members)):
        return None
    return [key for key, _ in sorted(zip(keys, scores, strict=True), key=lambda pair: -(pair[1] or 0.0)) if key]


def _sorted_records(records: Sequence[Mapping[str, Any]]) -> list[int] | None:
    """Return the identifiers of records by rank, by score or as they stand; None if they have none.

    Records in the order shown, with verdicts that are not understood, are no order: they give an empty list.
    """
    kept = []
    for record in records:
        lowered = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(key)).lower(): value for key, value in record.items()}
        number = _identifier(lowered)
        relevant = next((value for key, value in lowered.items() if key in ("relevant", "is_relevant")), None)
        if number is not None and value_of(relevant) != 0.0:
            kept.append((number, lowered))
    if not kept:
        return None
    if all("index" in record for _, record in kept) and any(number == 0 for number, _ in kept):
        kept = [(number + 1, record) for number, record in kept]  # counted from 0, as programs do
    numbers, judged = [number for number, _ in kept], [record for _, record in kept]
    order = _order_of_records(judged)
    if order is not None:
        return [numbers[index] for index in order] or numbers
    as_shown = len(kept) > 1 and numbers == list(range(1, len(kept) + 1))
    return [] if as_shown and any(_judges(judged, name) for name in judged[0]) else numbers


def _order_of_records(records: Sequence[Mapping[str, Any]]) -> list[int] | None:
    """Return the places of records, the best one's first, by their ranks, scores or other verdicts; None without."""
    for kind in (RANK, SCORE):
        values = [next((item for key, item in record.items() if kind.fullmatch(key)), None) for record in records]
        order = by_merit([verdict_of(value) for value in values], ranks=kind is RANK)
        if order is not None:
            return order
    for name in records[0]:
        verdicts = [verdict_of(record.get(name)) for record in records]
        numbers = all(verdict is not None and verdict.kind == "number" for verdict in verdicts)
        if _judges(records, name) and not numbers and (order := by_merit(verdicts)) is not None:
            return order
    return None


def _judges(records: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Tell whether a member says different things of records, in numbers or a few words, and is no text or reason."""
    if _ID.fullmatch(name) or _REASONS.fullmatch(name) or _TEXTS.fullmatch(name):
        return False
    values = [record.get(name) for record in records]
    short = all(
        isinstance(value, int | float) or (isinstance(value, str) and 0 < len(value) < 25) for value in values
    )
    return short and len(set(values)) > 1


def _identifier(record: Any) -> int | None:
    """Return the identifier of a record: of the member whose name says so; None if it has none."""
    if not isinstance(record, dict):
        return None
    for key, value in record.items():
        if str(key) and _ID.fullmatch(str(key)) and (number := _number(value)) is not None:
            return number
    return None


def _number(item: Any) -> int | None:
    """Return the identifier in a value (`3`, `3.0`, `"[3]"`, `"Passage 3"`); None if it has none."""
    if isinstance(item, list) and len(item) == 1:
        item = item[0]
    if isinstance(item, float) and item.is_integer() and abs(item) < 1e15:
        return int(item)
    if isinstance(item, int) and not isinstance(item, bool):
        return item
    match = _ONE_ID.fullmatch(item) or _BRACKETED_ID.match(item) if isinstance(item, str) else None
    return int(match[1]) if match else None


def _tags(text: str) -> tuple[list[dict[str, str]], str]:
    """Return the attributes of XML elements with an identifier (`<result rank="1" id="2"/>`), and the other text."""
    elements = [dict(_ATTRIBUTE.findall(match[1])) for match in _ELEMENT.finditer(text)]
    rows = [element for element in elements if _identifier(element) is not None]
    return (rows, _ELEMENT.sub("", text)) if len(rows) > 1 else ([], text)


def _fields(text: str) -> tuple[list[dict[str, str]], str]:
    """Return the records of lines such as `document: 2` and `relevance: 9` below each other, and the other text."""
    rows: list[dict[str, str]] = []
    for match in _FIELD.finditer(text):
        key, value = match[1].strip().lower(), match[2].strip(" \t*_`\"',;")
        if _ID.fullmatch(key):
            rows.append({})
        if rows:
            rows[-1].setdefault(key, value)
    whole = len(rows) > 1 and all(any(SCORE.fullmatch(key) or RANK.fullmatch(key) for key in row) for row in rows)
    return (rows, _FIELD.sub("", text)) if whole else ([], text)


def _table(text: str) -> tuple[list[dict[str, str]], str]:
    """Return the rows of the last Markdown table with a column of identifiers, and the text without tables."""
    if "|" not in text:
        return [], text
    rows = [[cell.strip(" \t*_`") for cell in match[1].split("|")] for match in _ROW.finditer(text)]
    rules = [index for index, row in enumerate(rows) if _RULE.fullmatch("|".join(row)) and index > 0]
    if not rules:
        return [], text
    header = [_HEADER_NOTE.sub("", cell).strip().lower() for cell in rows[rules[-1] - 1]]
    body = [row for row in rows[rules[-1] + 1 :] if len(row) == len(header)]
    if not any(cell and _ID.fullmatch(cell) for cell in header):
        return [], text
    return [dict(zip(header, row, strict=True)) for row in body], _ROW.sub("", text)
