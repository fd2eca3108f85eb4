"""What a run with some config would do with an output folder: begin it, go on with it, nothing, or leave it alone."""

from __future__ import annotations

import dataclasses
import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rrad_ray.tables.files import filesystem, io_errors, join
from rrad_ray.tables.fingerprints import same_input
from rrad_ray.tables.json_files import json_text
from rrad_ray.tables.leases import LEASES
from rrad_ray.tables.manifest import MANIFEST, parse_manifest
from rrad_ray.tables.reading import PROGRESS, QUARANTINE, STARTED, part_names
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


def settings_of(cfg: Any) -> dict[str, Any]:
    """Return what an output is made by: the config without its own place, and the digests of what stands behind its
    keys (a config's `digests`)."""
    values = {key: value for key, value in plain(cfg).items() if key != "output"}
    return values | getattr(cfg, "digests", {})


def _resumable(cfg: Any) -> tuple[str, ...]:
    """Return the keys that say how a run is made, not what it makes."""
    return getattr(type(cfg), "RESUMABLE", ())


def claim_of(cfg: Any, inputs: Mapping[str, str]) -> Claim:
    """Return what a run with this config over these inputs (by fingerprint) would do with its output folder."""
    uri, resumable = cfg.output, _resumable(cfg)
    finished = read_json(join(uri, MANIFEST))
    if finished is not None:
        reason = _another_run(finished, cfg, inputs, resumable)
        if not reason:
            parse_manifest(finished, uri)  # raises if another version has written it
        return Claim("refused", reason) if reason else Claim("finished")
    started = read_json(join(uri, STARTED))
    if started is None and (strays := [*part_names(uri), *part_names(join(uri, QUARANTINE))]):
        # They would become part of the new table, or be written over.
        reason = f"holds {len(strays)} parts that no run marks as its own ({strays[0]}, ...), and neither {MANIFEST}"
        return Claim("refused", f"{reason} nor {STARTED}")
    if started is None or not _anything_done(uri):
        return Claim("new")  # a run that failed before it had anything to show binds nobody
    # The remedy of `commit` may be taken: what is done stays good when more bad rows are allowed.
    reason = _another_run(started, cfg, inputs, (*resumable, "max_quarantined"))
    return Claim("refused", reason) if reason else Claim("resume")


def _another_run(owner: Mapping[str, Any], cfg: Any, inputs: Mapping[str, str], resumable: Sequence[str]) -> str:
    """Return how the run that owns a folder differs from this one; empty where `resumable` keys alone differ."""
    earlier = {"config": _with_new_keys(owner["config"], type(cfg)), "inputs": owner["inputs"]}
    for what, now, same in (("config", settings_of(cfg), operator.eq), ("inputs", inputs, same_input)):
        was = redacted(earlier[what])  # earlier versions wrote secrets too
        changed = sorted(key for key in {*was, *now} - {*resumable} if not same(was.get(key), now.get(key)))
        if changed:
            listing = ", ".join(f"{key}={was.get(key)!r} -> {now.get(key)!r}" for key in changed)
            return f"holds the output of another {what} ({listing})"
    return ""


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
    fs, path = filesystem(uri)
    with io_errors(uri):
        names = [entry.rpartition("/")[2] for entry in fs.ls(path, detail=False)]
    marks = (STARTED, PROGRESS.removesuffix(".json"), LEASES)
    return any(not name.startswith(marks) and not name.endswith(".tmp") for name in names)
