"""`rrad status RUN`: how far a stage's output, or every step of a pipeline's folder, is; while it runs or after."""

from __future__ import annotations

import socket
import time
from typing import Any

from rrad_ray.errors import RradError, in_stage
from rrad_ray.tables.claims import find_started
from rrad_ray.tables.files import exists, filesystem, io_errors, join
from rrad_ray.tables.leases import process_mark
from rrad_ray.tables.manifest import find_manifest
from rrad_ray.tables.reading import PROGRESS, STARTED
from rrad_ray.tables.text import read_json

SILENT_S = 120.0  # a run on another machine that has told nothing for so long is taken for dead


@in_stage("status")
def of_run(uri: str) -> list[dict[str, Any]]:
    """Return the state of the output at `uri`, or of every output right under it, oldest first.

    Raises `RradError` if there is none.
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
    states = [state for each in uris for state in _states(each)]
    return sorted(states, key=lambda state: (state["began"], state["name"]))


def _states(uri: str) -> list[dict[str, Any]]:
    """Return the state of an output; of one that several runs write, a slice each (`judge`'s `slice`), those of all
    runs."""
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
        if each.startswith(stem) and each.endswith(".json") and (progress := _progress(join(uri, each))) is not None:
            run = f"{name} {each.removesuffix('.json')[len(stem) + 1 :]}".rstrip()
            word = "slice done" if progress.get("ended") else "running" if _alive(progress) else "stopped"
            states.append({**state, "name": run, "state": word, "facts": progress})
    return states or [state]


def _progress(uri: str) -> dict[str, Any] | None:
    """Return the record of how far a run is; None where there is none. Raises `RradError` for what is no such."""
    facts = read_json(uri)
    if facts is None:
        return None
    numbers = ("updated", "pid", *(("done", "total", "rate") if isinstance(facts, dict) and "total" in facts else ()))
    known = isinstance(facts, dict) and all(isinstance(facts.get(key), int | float) for key in numbers)
    if (
        not known
        or not isinstance(facts.get("host"), str)
        or not isinstance(facts.get("left_s", 0.0) or 0.0, int | float)
    ):
        raise RradError(uri, "is no record of progress", "delete the file: the next run writes it anew")
    return {"unit": "rows", **facts}


def _alive(progress: dict[str, Any]) -> bool:
    """Return true while the process that wrote this progress runs; on another machine, while it has written
    lately."""
    if progress["host"] != socket.gethostname():
        return time.time() - progress["updated"] < SILENT_S
    return process_mark(int(progress["pid"])) is not None


def status_lines(states: list[dict[str, Any]]) -> list[str]:
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
            ago = time.time() - facts["updated"]
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
