"""`rrad status RUN`: how far a stage's output, or every step of a pipeline's folder, is; while it runs or after."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from rrad_ray.errors import RradError, in_stage
from rrad_ray.tables.claims import find_started
from rrad_ray.tables.file_models import misfit_of
from rrad_ray.tables.files import exists, filesystem, io_errors, join, listed
from rrad_ray.tables.leases import LEASES, RENEW_S, process_mark
from rrad_ray.tables.manifest import find_manifest
from rrad_ray.tables.reading import PROGRESS, STARTED
from rrad_ray.tables.text import read_json

SILENT_S = 120.0  # a run on another machine that has told something within this time, by its clock and ours, runs
WATCHED_S = 1.5 * RENEW_S  # for which any other is watched for a sign of life: their clocks may differ by hours
WATCH_EVERY_S = 0.5  # between two looks at it

State = dict[str, Any]


@in_stage("status")
def of_run(uri: str) -> list[State]:
    """Return the state of the output at `uri`, or of every output right under it, oldest first.

    Takes up to `WATCHED_S` where a run on another machine is silent. Raises `RradError` if there is none.
    """
    fs, path = filesystem(uri)
    uris = [uri]
    if not exists(join(uri, STARTED)):
        with io_errors(uri):
            names = sorted(entry.rstrip("/").rpartition("/")[2] for entry in fs.ls(path, detail=False))
        uris = [join(uri, name) for name in names]
        uris = [each for each in uris if exists(join(each, STARTED))]
    if not uris:
        raise RradError(uri, "no output of a stage stands there", "give a run's folder, or one stage's output")
    silent: list[tuple[State, str]] = []
    states = [state for each in uris for state in _states(each, silent)]
    _watch(silent)
    return sorted(states, key=lambda state: (state["began"], state["name"]))


def _states(uri: str, silent: list[tuple[State, str]]) -> list[State]:
    """Return the state of an output; of one that several runs write, a slice each (`judge`'s `slice`), those of all
    runs. States of silent runs on other machines are added to `silent`, with the folders of their leases."""
    fs, path = filesystem(join(uri, STARTED))
    began = fs.modified(path).timestamp()
    name = uri.rstrip("/").rpartition("/")[2]
    manifest = find_manifest(uri)
    if manifest is not None:
        shown = ("rows", "labels", "prompt_tokens", "generated_tokens")
        facts = {key: manifest.facts.get(key) for key in shown}
        facts |= {"quarantined": manifest.quarantined, "simulated": manifest.lineage.simulated}
        facts["qrels"] = manifest.lineage.qrels_note
        facts = {key: value for key, value in facts.items() if value}
        done = {"name": name, "stage": manifest.stage, "state": "done", "began": began, "facts": facts}
        return [done | {"seconds": manifest.seconds}]
    started = find_started(uri)
    stage = started.stage if started else ""
    state = {"name": name, "stage": stage, "began": began, "state": "not finished", "facts": {}}
    stem = PROGRESS.removesuffix(".json")
    with io_errors(uri):
        entries = sorted(entry.rpartition("/")[2] for entry in fs.ls(path.rpartition("/")[0], detail=False))
    states = []
    for each in entries:
        is_record = each.startswith(stem) and each.endswith(".json")
        if is_record and (progress := read_progress(join(uri, each))) is not None:
            mark = each.removesuffix(".json")[len(stem) :]
            word = "slice done" if progress.get("ended") else "running" if _alive(progress) else "stopped"
            states.append({**state, "name": f"{name} {mark[1:]}".rstrip(), "state": word, "facts": progress})
            if word == "stopped" and progress["host"] != socket.gethostname():
                silent.append((states[-1], join(uri, LEASES + mark)))
    return states or [state]


class _ProgressFile(BaseModel):
    """A run's record of how far it is: these keys, and any others of its stage."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    host: str
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    updated: float
    unit: str = "rows"
    left_s: float | None = None
    prompt_tokens_per_s: float = 0.0
    generated_tokens_per_s: float = 0.0


class _CountedFile(_ProgressFile):
    """A record that counts."""

    done: float
    total: float
    rate: float


def read_progress(uri: str) -> dict[str, Any] | None:
    """Return the record of how far a run is; None where there is none. Raises `RradError` for what is no such."""
    facts = read_json(uri)
    if facts is None:
        return None
    counted = isinstance(facts, dict) and "total" in facts
    if misfit := misfit_of(_CountedFile if counted else _ProgressFile, facts):
        remedy = "delete the file: the next run writes it anew"
        raise RradError(uri, f"is no record of progress ({misfit})", remedy)
    return {"unit": "rows", **facts}


def _alive(progress: dict[str, Any]) -> bool:
    """Return true while the process that wrote this progress runs; on another machine, if it has written lately."""
    if progress["host"] != socket.gethostname():
        return abs(time.time() - progress["updated"]) < SILENT_S
    return process_mark(progress["pid"]) is not None


def _watch(silent: list[tuple[State, str]]) -> None:
    """Set the state of silent runs to running where they renew their leases meanwhile: no clocks are compared."""
    before = [(state, folder, lease) for state, folder in silent if (lease := _lease(folder))]
    until = time.monotonic() + WATCHED_S
    while before and time.monotonic() < until:
        time.sleep(WATCH_EVERY_S)
        for state, folder, lease in before:
            if (now := _lease(folder)) and now != lease:
                state["state"] = "running"
        before = [each for each in before if each[0]["state"] != "running"]


def _lease(folder: str) -> dict[str, Any]:
    """Return the lease that a run renews while it lives; empty where there is none, or it has ended."""
    names = [name for name in listed(folder) if name.endswith(".json")]
    with suppress(RradError):  # it is being written, or was just deleted, as its run ends
        lease = read_json(join(folder, max(names))) if names else None
        return lease if isinstance(lease, dict) and not lease.get("ended") else {}
    return {}


def status_lines(states: list[State]) -> list[str]:
    """Return a line for each output, and one with the figures of what is under way."""
    width = max(len(state["name"]) for state in states)
    lines = []
    for state in states:
        facts = state["facts"]
        head = f"{state['name']:{width}}  {state['stage']:8}  {state['state']}"
        if state["state"] == "done":
            rest = [f"{state['seconds']:.0f} s", *(f"{key} {_text(value)}" for key, value in facts.items())]
            lines.append(", ".join([head, *rest]))
            continue
        if "total" in facts:
            share = 100 * facts["done"] / max(facts["total"], 1)
            head += (
                f", {facts['done']:,} of {facts['total']:,} {facts['unit']} ({share:.0f} %), {facts['rate']:.1f}/s"
            )
            ago = max(0.0, time.time() - facts["updated"])  # another machine's clock may be ahead
            head += f", told {ago:.0f} s ago"
            if state["state"] == "running" and facts.get("left_s") is not None:
                head += f", {facts['left_s'] / 60:.0f} min left"
        lines.append(head)
        known = ("ended", "stage", "host", "pid", "updated", "unit", "done", "total", "rate", "left_s")
        more = [f"{key} {_text(value)}" for key, value in facts.items() if key not in known]
        lines += [" " * (width + 2) + ", ".join(more)] if more else []
        if state["state"] == "stopped":
            lines.append(" " * (width + 2) + "run the same command again: it goes on from there")
    return lines


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
