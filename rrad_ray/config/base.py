"""The parts that all configs share: how they are checked, and the types of keys that several of them have."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic.dataclasses import dataclass

from rrad_ray.rows import Split
from rrad_ray.uris import check_uri

MINILM = "bundled:all-minilm-l6-v2"
SMOLLM2 = "bundled:smollm2-135m-instruct"
MULTILINGUAL_E5 = "bundled:multilingual-e5-small"

# A key that a config does not have is an error; the string below a key is its description (docs/configuration.md).
CHECKED = ConfigDict(extra="forbid", use_attribute_docstrings=True, coerce_numbers_to_str=True, allow_inf_nan=False)


def _number(value: Any) -> Any:
    """Refuse `true` and `false`, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Backend = Literal["torch", "compile", "openvino", "onnx"]
Precision = Literal["auto", "bfloat16", "float32", "int8"]
NO_BOOL = BeforeValidator(_number)  # last in an annotation: bounds before it stay in the JSON schema
Integer = Annotated[int, NO_BOOL]
Number = Annotated[float, NO_BOOL]
Count = Annotated[int, Field(ge=1), NO_BOOL]
CountOrNone = Annotated[int, Field(ge=0), NO_BOOL]  # 0: none, all or no limit, as the key's description says
Positive = Annotated[float, Field(gt=0), NO_BOOL]
NotNegative = Annotated[float, Field(ge=0), NO_BOOL]
Share = Annotated[float, Field(ge=0, le=1), NO_BOOL]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1), NO_BOOL]
BetweenZeroAndOne = Annotated[float, Field(gt=0, lt=1), NO_BOOL]
Seed = Annotated[int, Field(ge=0, lt=2**32), NO_BOOL]  # what every generator of random numbers takes


def _resources(value: dict[str, float]) -> dict[str, float]:
    """Refuse a process that asks for nothing, which would be started on no CPU at all."""
    if not any(value.values()):
        raise ValueError("name at least one resource above 0, as in {CPU: 1}")
    return value


# What Ray gives to one process, as in {CPU: 1} or {GPU: 0.5}.
ResourceSpec = Annotated[dict[str, NotNegative], AfterValidator(_resources)]


def _uri(value: str) -> str:
    """Refuse a scheme that nothing here reads; a key that may be empty stays so."""
    return check_uri(value) if value else value


def _given(value: str) -> str:
    """Refuse an empty name, such as `students.new=` without its folder."""
    if not value.strip():
        raise ValueError("is empty: name a place, or leave the key out")
    return value


Splits = Annotated[tuple[Split, ...], Field(min_length=1)]
Uri = Annotated[str, AfterValidator(_uri)]  # a local path or `s3://`
Given = Annotated[str, AfterValidator(_given)]
GivenUri = Annotated[Uri, AfterValidator(_given)]


class KeyProblem(ValueError):
    """A value that a rule forbids; the text names the key, which may be another one than the field checked."""


def require(ok: bool, key: str, value: Any, want: str) -> None:
    """Raise `KeyProblem` with key, value and what is wanted, unless `ok`."""
    if not ok:
        raise KeyProblem(f"{key}={value!r}: {want}")


def _is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _range(value: Any) -> Any:
    """Check a number from 1, or {min, max} with 1 <= min <= max."""
    known = not isinstance(value, dict) or set(value) <= {"min", "max"}
    low, high = (value.get("min", 1), value.get("max")) if isinstance(value, dict) else (value, value)
    if not (known and _is_count(low) and _is_count(high) and low <= high):
        raise ValueError("write a number from 1, or {min: 1, max: 4}")
    return value


def _pool(value: Any) -> Any:
    """Check a number from 1, or {min: 0, max: n}."""
    if isinstance(value, dict):
        ok = set(value) <= {"min", "max"} and value.get("min", 0) == 0 and _is_count(value.get("max"))
    else:
        ok = _is_count(value)
    if not ok:
        raise ValueError("write a number from 1, or {min: 0, max: 8}")
    return value


_NUMBER_OR_RANGE = WithJsonSchema({"title": "int or {min, max}"})
# As many processes as the cluster has room for, between two numbers; both must start, and others may come and go.
Range = Annotated[int | dict[str, int], PlainValidator(_range), _NUMBER_OR_RANGE]
# At most so many processes, while there is work for them and the cluster has room.
Pool = Annotated[int | dict[str, int], PlainValidator(_pool), _NUMBER_OR_RANGE]
# As many processes as there is work for and the cluster has room for, and never fewer than the first number.
Actors = Range


def range_of(value: int | dict[str, int]) -> tuple[int, int]:
    """Return the fewest and the most processes of a `Range`."""
    return (value.get("min", 1), value["max"]) if isinstance(value, dict) else (value, value)


def actors_of(value: int | dict[str, int]) -> tuple[int, int]:
    """Return the fewest and the most processes of `Actors`; a number alone is the most."""
    return range_of(value if isinstance(value, dict) else {"max": value})


def most_of(value: int | dict[str, int]) -> int:
    """Return the most processes of a `Pool`."""
    return value["max"] if isinstance(value, dict) else value


def check_backend(backend: str, precision: str) -> None:
    """Raise `ValueError` for a backend or precision that is none, or that do not go together."""
    for key, value, known in (("backend", backend, Backend), ("precision", precision, Precision)):
        require(value in get_args(known), key, value, f"choose one of {', '.join(get_args(known))}")
    int8 = precision != "int8" or backend in ("torch", "onnx")
    require(int8, "precision", precision, "int8 is made by backend=torch and onnx")
    onnx = precision != "bfloat16" or backend != "onnx"
    require(onnx, "precision", precision, "backend=onnx knows float32 and int8")


@dataclass(frozen=True, config=CHECKED)
class StagePaths:
    """The table or files that a stage reads, and the folder that it writes."""

    input: Uri
    """What the stage reads: the output of an earlier stage, local or `s3://`."""
    output: Uri
    """The folder that the stage writes, local or `s3://`; the same config on the same output resumes or does
    nothing."""
