"""JSON files that people and other versions may have changed: their content against the types that the code has."""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING
from typing import Annotated, Any, NotRequired, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model


def file_model(schema: type, **narrower: Any) -> Any:
    """Return the strict pydantic model of a typed dict or a dataclass, with narrower types for some of its keys.

    Pydantic itself takes the typed dicts of `typing` from Python 3.12 on only.
    """
    types = get_type_hints(schema, include_extras=True)
    optional = {key for key, kind in types.items() if get_origin(kind) is NotRequired}
    if dataclasses.is_dataclass(schema):
        own = dataclasses.fields(schema)
        optional |= {each.name for each in own if (each.default, each.default_factory) != (MISSING, MISSING)}
    types = get_type_hints(schema) | narrower
    keys: dict[str, Any] = {key: (kind, None if key in optional else ...) for key, kind in types.items()}
    for key in {*keys} & {*dir(BaseModel)}:  # `schema`, which would hide pydantic's own
        kind, default = keys.pop(key)
        keys[f"{key}_"] = Annotated[kind, Field(alias=key)], default
    strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return create_model(f"{schema.__name__}File", __config__=strict, **keys)


def misfit_of(model: Any, content: Any) -> str:
    """Return what is wrong with a file's content by a model of it, as `parts.a.rows: ...`; empty where nothing is."""
    try:
        model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else first["msg"]
    return ""
