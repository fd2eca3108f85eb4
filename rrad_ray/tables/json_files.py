"""JSON as its standard has it: null stands for a number that could not be computed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rrad_ray.tables.files import write_text


def write_json(uri: str, content: Any, indent: int | None = None) -> None:
    """Write a JSON file whole or not at all, with the text of `json_text`."""
    write_text(uri, json_text(content, indent))


def json_text(content: Any, indent: int | None = None) -> str:
    """Return the JSON text of values, of which those that `finite` replaces become null."""
    return json.dumps(finite(content), indent=indent, allow_nan=False)


def finite(content: Any) -> Any:
    """Return JSON's values with None for NaN and infinity, which JSON does not have."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
