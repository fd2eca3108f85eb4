"""Find the JSON in an answer: the whole of it, code fences, objects in prose, and what ends too early."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from rrad_ray.labelling.answer_markup import identifier_of

_STARTS = re.compile(r"[{\[](?=\s*[\"{}\[\d-])")
_OBJECT = re.compile(r"\[?\s*[{\"]")
_PYTHON_TEXT = re.compile(r"(?<=[\[{(,:\s])'((?:[^'\\\n]|\\.)*)'(?=\s*[\]}),:])")
_PYTHON_NAME = re.compile(r"(?<=[\[,:\s])(?:True|False|None)(?=\s*[,\]}])")
_PYTHON_PAIR = re.compile(r"(?<=[\[,\s])\((\s*\S{1,20}\s*,\s*\S{1,20}\s*)\)(?=\s*[,\]])")
_PYTHON_KEY = re.compile(r"(?<=[{,\s])(\d{1,18})(?=\s*:)")
_FENCE = re.compile(r"```\w*\n?(.*?)(?:```|\Z)", re.DOTALL)
_MOST_STARTS = 50
_ENDS = ("]", "}", "]}", "}]", "}]}", '"}]', '"}', '"]', '"]}', '"}]}')


def as_json(text: str) -> str:
    """Return a text whose Python literals are JSON: quotes, `None`, tuples, keys that are numbers."""
    text = _PYTHON_TEXT.sub(lambda match: json.dumps(match[1].replace("\\'", "'"), ensure_ascii=False), text)
    text = _PYTHON_NAME.sub(lambda match: match[0].lower().replace("none", "null"), text)
    return _PYTHON_KEY.sub(r'"\1"', _PYTHON_PAIR.sub(r"[\1]", text))


def json_values(text: str) -> Iterator[tuple[Any, bool]]:
    """Give the JSON values in a text (the whole of it, what stands in code fences, objects and lists in prose), each
    with whether it is cut off."""
    body = text.strip()
    if not _STARTS.search(body):
        return
    bodies = [match[1].strip() for match in _FENCE.finditer(body)] or [body]
    for part in bodies:
        try:
            value = json.loads(part)
        except (ValueError, RecursionError):
            if _OBJECT.match(part) and (value := _cut_off(part)) is not None:
                yield value, True
            else:
                yield from ((each, False) for each in _embedded(part))
        else:
            if isinstance(value, dict) or (isinstance(value, list) and (len(value) > 1 or _is_record(value))):
                yield value, False  # `[2]` is an identifier in brackets


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
    if len(objects) > 1 and all(identifier_of(item) is not None for item in objects):
        yield objects
    else:
        yield from objects
