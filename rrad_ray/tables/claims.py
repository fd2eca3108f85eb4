"""The claim of a run to its output folder: it begins the output, goes on, finds it finished, or is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rrad_ray.errors import RradError
from rrad_ray.tables.file_models import file_model, misfit_of
from rrad_ray.tables.files import join, names_in_folder
from rrad_ray.tables.fingerprints import input_difference, same_input
from rrad_ray.tables.json_files import json_text
from rrad_ray.tables.leases import LEASES
from rrad_ray.tables.manifest import MANIFEST, Manifest, find_manifest
from rrad_ray.tables.reading import (
    JOURNAL,
    PROGRESS,
    QUARANTINE,
    RAY_FOLDER,
    STARTED,
    WORK,
    is_own_part,
    part_names,
)
from rrad_ray.tables.secrets import redacted
from rrad_ray.tables.text import read_json


def plain(cfg: Any) -> dict[str, Any]:
    """Return a config as JSON-ready values, without its secrets: it is written, logged and printed."""
    return redacted(_plain_value(cfg))


@dataclass(frozen=True)
class Claim:
    """The effect that a run with some config would have on an output folder.

    `state`: `new`, `resume` (a killed run of the same config goes on), `finished` (there is nothing to do) or
    `refused` (the folder holds the output of another config or input; `reason` says which keys differ).
    """

    state: str
    reason: str = ""


@dataclass(frozen=True)
class Started:
    """The record of the run that a folder belongs to, in `started.json`: what its output is made by."""

    stage: str
    config: dict[str, Any]
    inputs: dict[str, str]
    versions: dict[str, str] = field(default_factory=dict)


_StartedFile = file_model(Started)


def find_started(uri: str) -> Started | None:
    """Read the record of the run that began the output at `uri`; None where there is none.

    Raises `RradError` for a file that holds no such record.
    """
    content = read_json(join(uri, STARTED))
    if content is None:
        return None
    if misfit := misfit_of(_StartedFile, content):
        remedy = "delete the output and run its stage again, or name another one"
        raise RradError(join(uri, STARTED), f"is no record of a stage ({misfit})", remedy)
    return Started(**content)


def settings_of(cfg: Any) -> dict[str, Any]:
    """Return what an output is made by: the config without its own place, and the digests of what stands behind its
    keys (a config's `digests`)."""
    values = {key: value for key, value in plain(cfg).items() if key != "output"}
    return values | getattr(cfg, "digests", {})


def _resumable(cfg: Any) -> tuple[str, ...]:
    """Return the keys that a killed run may go on with other values of, also within others: `openai.request`."""
    return getattr(type(cfg), "RESUMABLE", ())


def _made_by(cfg: Any) -> tuple[str, ...]:
    """Return those of `_resumable` whose values make another output once it is finished."""
    return getattr(type(cfg), "MADE_BY", ())


def claim_of(cfg: Any, inputs: Mapping[str, str]) -> Claim:
    """Return what a run with this config over these inputs (by fingerprint) would do with its output folder."""
    uri, resumable = cfg.output, _resumable(cfg)
    finished = find_manifest(uri)
    if finished is not None:
        reason = _another_run(finished, cfg, inputs, resumable, _made_by(cfg))
        return Claim("refused", reason) if reason else Claim("finished")
    started = find_started(uri)
    if started is None and (reason := _unmarked(uri)):
        # Another run may have begun, or ended, since this one looked for its mark.
        return claim_of(cfg, inputs) if find_started(uri) else Claim("refused", reason)
    if started is not None and (strays := [name for name in part_names(uri) if not is_own_part(name)]):
        reason = f"holds {len(strays)} parts that no stage has written ({strays[0]}, ...): their rows would count too"
        return Claim("refused", reason)
    if started is None or not _anything_done(uri):
        return Claim("new")  # a run that failed before it had anything to show binds nobody
    # The remedy of `commit` may be taken: what is done stays good when more bad rows are allowed.
    reason = _another_run(started, cfg, inputs, (*resumable, "max_quarantined"))
    return Claim("refused", reason) if reason else Claim("resume")


def _another_run(
    owner: Started | Manifest,
    cfg: Any,
    inputs: Mapping[str, str],
    resumable: Sequence[str],
    made_by: Sequence[str] = (),
) -> str:
    """Return how the run that owns a folder differs from this one; empty where `resumable` keys alone differ, and
    none of those in `made_by`."""
    was = redacted(_with_new_keys(owner.config, type(cfg)))  # earlier versions wrote secrets too
    now = settings_of(cfg)
    kept_was, kept_now = (_without(values, resumable) for values in (was, now))
    changed = sorted(key for key in {*kept_was, *kept_now} if kept_was.get(key) != kept_now.get(key))
    changed += [key for key in made_by if _value_at(was, key) != _value_at(now, key)]
    if changed:
        listing = ", ".join(f"{key}={_value_at(was, key)!r} -> {_value_at(now, key)!r}" for key in changed)
        return f"holds the output of another config ({listing})"
    # Of an input that earlier versions did not take down, nothing is known; one that has gone is not read again.
    pairs = {name: (owner.inputs[name], inputs[name]) for name in {*owner.inputs} & {*inputs} - {*resumable}}
    differing = sorted(name for name, pair in pairs.items() if not same_input(*pair))
    listing = ", ".join(f"{name}={input_difference(*pairs[name])}" for name in differing)
    return f"holds the output of other inputs ({listing})" if differing else ""


def _value_at(values: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key, also within another: `openai.request`; None where there is none."""
    name, _, rest = key.partition(".")
    value = values.get(name)
    if not rest:
        return value
    return _value_at(value, rest) if isinstance(value, Mapping) else None


def _without(values: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return the values without these keys."""
    kept = {name: value for name, value in values.items() if name not in keys}
    for name, _, rest in (key.partition(".") for key in keys):
        if rest and isinstance(kept.get(name), Mapping):
            kept[name] = _without(kept[name], [rest])
    return kept


def _with_new_keys(was: Mapping[str, Any], schema: type) -> dict[str, Any]:
    """Return a config that an earlier version has written, with the defaults of the keys that it did not know: a new
    key's default is what was done before there was the key. So an upgrade does not refuse what has been paid for."""
    filled = dict(was)
    for name, key in getattr(schema, "__pydantic_fields__", {}).items():
        if key.is_required() or name == "output":
            continue
        default = key.get_default(call_default_factory=True)
        if name not in was:
            filled[name] = _plain_value(default)
        elif dataclasses.is_dataclass(default) and isinstance(was[name], Mapping):
            filled[name] = _with_new_keys(was[name], type(default))
    return filled


def _plain_value(value: Any) -> Any:
    """Return a key's value as JSON reads it back."""
    is_config = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return json.loads(json_text(dataclasses.asdict(value) if is_config else value))


def _anything_done(uri: str) -> bool:
    """Return true where the folder holds more than the marks of a run that has begun."""
    marks = (STARTED, PROGRESS.removesuffix(".json"), LEASES)
    return any(not name.startswith(marks) and not name.endswith(".tmp") for name in names_in_folder(uri))


def _unmarked(uri: str) -> str:
    """Return what is in a folder that no run marks as its own; empty where nothing is."""
    if strays := [*part_names(uri), *part_names(join(uri, QUARANTINE))]:
        # They would become part of the new table, or be written over.
        reason = f"holds {len(strays)} parts that no run marks as its own ({strays[0]}, ...), and neither {MANIFEST}"
        return f"{reason} nor {STARTED}"
    if folders := _left_behind(uri):
        # This run would go on from what another one has kept there, whatever that was made by.
        return f"holds {folders[0]}/ of a run that did not end, and no {STARTED} says which run that was"
    return ""


def _left_behind(uri: str) -> list[str]:
    """Return the folders there that a killed run of ours goes on from."""
    kept = (WORK, JOURNAL, RAY_FOLDER)
    return [name for name in names_in_folder(uri) if name in kept or name.startswith(f"{JOURNAL}-")]
