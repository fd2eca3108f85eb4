"""Text keys take what was written. YAML reads `012` as 10, `12:30` as 750 and `yes` as true; no path means that.

So YAML and overrides are read twice: by YAML's rules, and as text. A key's type says which of the two it takes. No
number is meant so either: a key that takes one refuses it.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

from rrad_ray.errors import InvalidInput


class _TextLoader(yaml.SafeLoader):
    """A YAML loader to which every scalar is text, but for `null`."""


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_texts(text: str) -> Any:
    """Return the content of YAML with its scalars as they are written. Raises `YAMLError`."""
    return yaml.load(text, _TextLoader)  # a kind of SafeLoader


def is_yaml(text: str) -> bool:
    """Return whether an override's value can be read as YAML."""
    try:
        read_texts(text)
    except yaml.YAMLError:
        return False
    return True


def is_container(text: str) -> bool:
    """Return whether an override's value is a list or a mapping to YAML."""
    return text.lstrip().startswith(("[", "{")) and is_yaml(text) and isinstance(read_texts(text), list | dict)


def is_text(schema: Any, path: Sequence[str]) -> bool:
    """Return whether a key of a config class is a text, as `("search", "title")`; false for an unknown key."""
    for key in path:
        if (fields := _fields(schema)) is not None:
            schema = fields[key].annotation if key in fields else None
        else:
            schema = _value_type(schema)
    return _takes_text(schema)


def with_texts(schema: Any, values: Any, texts: Any) -> Any:
    """Return values with the texts in place of those that the type `schema` wants as text.

    `values` and `texts`: the same content, read by YAML's rules and as text. Raises `InvalidInput` for names that are
    one number to YAML, as 1.1 and 1.10, of values that are no texts, and for a number that YAML reads as another one.
    """
    if _takes_text(schema):
        return texts if isinstance(texts, str) else values
    if isinstance(texts, str):
        _check_number(values, texts)
    if isinstance(values, dict) and isinstance(texts, dict):
        if (fields := _fields(schema)) is not None:
            known = {key: field.annotation for key, field in fields.items()}
            return {key: with_texts(known.get(key), values[key], texts.get(key)) for key in values}
        if _takes_text(_value_type(schema)):
            return texts  # where all names stand apart
        if len(values) < len(texts):
            raise InvalidInput(f"two of the names {', '.join(texts)} are one number to YAML", "put them in quotes")
        if len(values) == len(texts):
            pairs = zip(texts.items(), values.values(), strict=True)
            return {key: with_texts(_value_type(schema), value, text) for (key, text), value in pairs}
    if isinstance(values, list) and isinstance(texts, list) and len(values) == len(texts):
        return [with_texts(_value_type(schema), value, text) for value, text in zip(values, texts, strict=True)]
    return values


def _check_number(value: Any, text: str) -> None:
    """Raise `InvalidInput` for 0100, which is 64 to YAML, and 12:30, which is 750."""
    digits = text.lstrip("+-").replace("_", "")
    if isinstance(value, int | float) and (":" in digits or (digits.isdecimal() and int(digits) != abs(value))):
        remedy = "write a number without zeros in front and without colons, and a text in quotes"
        raise InvalidInput(f"{text} is {value} to YAML", remedy)


def _fields(schema: Any) -> dict[str, Any] | None:
    return getattr(schema, "__pydantic_fields__", None)


def _bare(schema: Any) -> Any:
    """Return a type without its annotations."""
    while get_origin(schema) is Annotated:
        schema = get_args(schema)[0]
    return schema


def _value_type(schema: Any) -> Any:
    """Return the type of the values of a list or a mapping; None for another type."""
    arguments = [each for each in get_args(_bare(schema)) if each is not Ellipsis]
    return arguments[-1] if get_origin(_bare(schema)) in (dict, list, tuple) and arguments else None


def _takes_text(schema: Any) -> bool:
    """Return whether a type is text and nothing else, None aside."""
    schema = _bare(schema)
    if get_origin(schema) is Literal:
        return all(isinstance(choice, str) for choice in get_args(schema))
    if get_origin(schema) in (Union, types.UnionType):
        return all(each is type(None) or _takes_text(each) for each in get_args(schema))
    return schema is str
