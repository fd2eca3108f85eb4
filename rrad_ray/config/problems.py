"""The fault that pydantic finds in a value, in one line that names the key, the value and what is wanted."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rrad_ray.config.base import KeyProblem

# What is wanted of a value, by the type of pydantic's error.
WANTED = {
    **dict.fromkeys(("tuple_type", "list_type"), "write a list, as in [one, two]"),
    **dict.fromkeys(("dict_type", "dataclass_type"), "write a mapping, as in {{key: value}}"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "write true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    "greater_than": "must be above {gt:.12g}",
    "greater_than_equal": "must be at least {ge:.12g}",
    "less_than": "must be below {lt:.12g}",
    "less_than_equal": "must be at most {le:.12g}",
}


def _fields(schema: Any, path: Sequence[int | str]) -> list[str]:
    """Return the keys of a config class, or of the nested one at a path of keys."""
    for key in path:
        if isinstance(key, int):  # of a list, whose items are of one class
            schema = next(iter(get_args(schema)), None)
            continue
        field = getattr(schema, "__pydantic_fields__", {}).get(key)
        schema = field.annotation if field else None
        if type(None) in get_args(schema):  # A | None
            schema = next((each for each in get_args(schema) if each is not type(None)), None)
    return list(getattr(schema, "__pydantic_fields__", {}))


def first_error(error: ValidationError) -> ErrorDetails:
    """Return the error to tell of several: a missing key last, as an unknown one is often it, misspelt."""
    return min(error.errors(), key=lambda each: each["type"] == "missing")


def problem_of(schema: type, error: ErrorDetails) -> str:
    """Return key, value and what is wanted of one error of pydantic's, in one line."""
    *above, last = error["loc"] or ("",)
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"no value for {key}"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _fields(schema, above)
        near = difflib.get_close_matches(str(last), known, n=1)
        hint = f"did you mean: '{'.'.join([*map(str, above), near[0]])}'" if near else f"known: {', '.join(known)}"
        return f"unknown key '{key}' ({hint})"
    if error["type"] == "value_error":
        refused = error["ctx"]["error"]
        return str(refused) if isinstance(refused, KeyProblem) else f"{key}={error['input']!r}: {refused}"
    if error["type"] == "literal_error":
        choices = error["ctx"]["expected"].replace(" or ", ", ").replace("'", "")
        return f"{key}={error['input']!r}: choose one of {choices}"
    wanted = WANTED.get(error["type"], "")
    text = wanted.format(**error.get("ctx", {})) if wanted else error["msg"][:1].lower() + error["msg"][1:]
    return f"{key}={error['input']!r}: {text}"
