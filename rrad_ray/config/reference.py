"""The reference of all keys, from the config classes: `rrad STAGE --help`, and docs/configuration.md.

`make docs` runs `python -m rrad_ray.config.reference`, which prints the page.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rrad_ray.config.catalog import STAGES

HEAD = """# Configuration

Every key of every stage, with its type, default and meaning. This page is generated from the classes in
`rrad_ray/config/` by `make docs`.

A stage reads a YAML file and `key=value` overrides: `rrad train configs/train.yaml input=LABELS output=OUT lr=2e-5`.
A nested key is written with a dot, as in `gate.enabled=false`. A mapping that you give replaces the default one.
`base: OTHER.yaml` (beside the file, an absolute path, or on `s3://`) builds a file on another; mappings are merged.
`rrad STAGE --help` lists a stage's keys, `rrad STAGE CONFIG --show` prints the resolved config, and a misspelt key
gets a suggestion. Credentials come from environment variables only.
"""


class Key(NamedTuple):
    """One key of a config. `default`: as YAML; empty where the key must be given. `name`: nested keys with dots."""

    name: str
    kind: str
    default: str
    meaning: str


def keys_of(schema: Any, prefix: str = "") -> Iterator[Key]:
    """Yield the keys of a config class in their order, those of a nested class behind its own."""
    fields: dict[str, FieldInfo] = schema.__pydantic_fields__
    kinds = TypeAdapter(schema).json_schema(mode="validation")
    for name, field in fields.items():
        meaning = _meaning(schema, name)
        if hasattr(field.annotation, "__pydantic_fields__"):
            yield from keys_of(field.annotation, f"{prefix}{name}.")
            continue
        yield Key(f"{prefix}{name}", _kind(_resolved(kinds, kinds["properties"][name])), _default(field), meaning)


def _meaning(schema: type, name: str) -> str:
    """Return a key's description, which may stand in a class that this one inherits from."""
    inherited = (getattr(each, "__pydantic_fields__", {}).get(name) for each in schema.__mro__)
    return " ".join(next((field.description for field in inherited if field and field.description), "").split())


def _resolved(root: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return a property's schema, or the one in `$defs` that it refers to."""
    return root["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _kind(schema: dict[str, Any]) -> str:
    """Return a key's type in words: `int >= 1`, `encoder | decoder`, `list of str`."""
    if "title" in schema and " " in schema["title"] and "type" not in schema:
        return str(schema["title"])  # types that say themselves what they take
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    kind = {"integer": "int", "number": "float", "string": "str", "boolean": "bool"}.get(schema.get("type", ""), "")
    if schema.get("type") == "array":
        items = schema.get("items", {})
        return "list of " + (" | ".join(items["enum"]) if "enum" in items else "str")
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties", True)
        names = {"integer": "int", "number": "float", "string": "str"}
        return f"dict of {names.get(str(inner.get('type')), 'values')}" if isinstance(inner, dict) else "dict"
    marks = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
    bounds = ", ".join(f"{mark} {schema[bound]:.12g}" for bound, mark in marks if bound in schema)
    return f"{kind} {bounds}".strip()


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return ""
    return json.dumps(value) if not isinstance(value, str) else value or '""'


def markdown() -> str:
    """Return docs/configuration.md: a section for each stage, a table of its keys."""
    lines = [HEAD]
    for stage, (schema, purpose) in STAGES.items():
        about = textwrap.dedent("    " + (schema.__doc__ or "")).strip()
        lines += [f"## {stage}", "", f"`rrad {stage}`: {purpose}.", "", about, ""]
        lines += ["| Key | Type | Default | Meaning |", "| --- | --- | --- | --- |"]
        for key in keys_of(schema):
            default = f"`{key.default}`" if key.default else "required"
            cells = (f"`{key.name}`", key.kind, default, key.meaning)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def help_text(schema: Any) -> str:
    """Return a stage's keys for a terminal: `key: type = default`, and the meaning below it."""
    paragraphs = []
    for key in keys_of(schema):
        head = f"  {key.name}: {key.kind}" + (f" = {key.default}" if key.default else " (required)")
        meaning = textwrap.fill(key.meaning, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
        paragraphs.append(f"\b\n{head}\n{meaning}")
    return "\n\n".join(["Keys, as in key=value or in the YAML file:", *paragraphs])


if __name__ == "__main__":
    print(markdown(), end="")
