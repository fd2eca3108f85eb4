"""The history of the nights of a store: `history.jsonl`, an entry a night, and one self-contained page of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from rrad_ray import tables
from rrad_ray.config.problems import first_error, problem_of
from rrad_ray.errors import RradError
from rrad_ray.evaluation.theme import render_page

NIGHTS_FILE, NIGHTS_PAGE = "history.jsonl", "history.html"

ASKED = "asked"  # the folder of the nights' queries below the store

MOST_HISTORY_BYTES = 64_000_000  # thousands of nights; an endpoint reads it every few seconds

NIGHTS_SHOWN = 8  # nights, the last ones, whose figures stand side by side

BEFORE, DEVIATIONS = 5, 3.0  # earlier nights that a figure needs, and how far from their mean it is marked

NightEntry = dict[str, Any]


class _SetFigures(BaseModel):
    queries: int
    last: float | None
    new: float | None
    p: float | None


class _NightLine(BaseModel):
    """A line of the history, as far as its page shows it: people mend the file."""

    model_config = ConfigDict(extra="allow", strict=True)

    night: str
    decision: str
    reason: str = ""
    queries: int = 0
    sets: dict[str, _SetFigures] = {}
    drift: dict[str, float | None] = {}
    created: Annotated[AwareDatetime | None, Field(strict=False)] = None


def read_nights(store: str) -> list[NightEntry]:
    """Return the entries of a store's history, by night. Raises `RradError` for a line that is no entry, and for a
    file of more than `MOST_HISTORY_BYTES`."""
    uri = tables.join(store, NIGHTS_FILE)
    entries: list[NightEntry] = []
    text = tables.read_text(uri, MOST_HISTORY_BYTES) if tables.exists(uri) else ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = json.loads(line)
            _NightLine.model_validate(entry)
        except ValidationError as error:
            problem = problem_of(_NightLine, first_error(error))
        except (ValueError, RecursionError) as error:
            problem = str(error)
        else:
            entries.append(entry)
            continue
        raise RradError(f"{uri}:{number}", f"no entry of a night: {problem}", "mend or delete the line")
    return entries


def check_new_night(store: str, night: str, report: str, last: str) -> None:
    """Raise `RradError` for a night of a name that another one has, by its `report` or the winner that it began from:
    that one's entry and queries would be written over. One that has not come to its end may begin again."""
    for entry in (each for each in read_nights(store) if each["night"] == night and each.get("report")):
        if (tables.absolute(entry["report"]), entry.get("last")) != (tables.absolute(report), last):
            problem = (
                f"the history has another night of that name (report {entry['report']}, from {entry.get('last')})"
            )
            raise RradError(
                f"night={night}", problem, "name this night otherwise, or delete that line of the history"
            )


def record_night(store: str, night: str, decision: str, reason: str, **facts: Any) -> None:
    """Write a night's entry into the history and its page, in the place of one of the same night.

    `decision`: published, refused or waits. `facts`, of a night that came to its end: `system`, `checkpoint`, `last`
    (the system that it was compared with), `queries`, `report`, `sets` by name (`nights.Comparison`) and `drift`.
    """
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    entry = {"night": night, "decision": decision, "reason": reason, "created": created, **facts}
    others = [each for each in read_nights(store) if each["night"] != night]
    # By the time of their decision: names may be anything, and of numbers 9 would stand behind 12.
    entries = sorted([*others, entry], key=lambda each: (each.get("created") or "", str(each["night"])))
    lines = "".join(f"{tables.json_text(each)}\n" for each in entries)
    tables.write_text(tables.join(store, NIGHTS_FILE), lines)
    tables.write_text(
        tables.join(store, NIGHTS_PAGE), history_page([json.loads(line) for line in lines.splitlines()])
    )


def history_page(entries: Sequence[NightEntry]) -> str:
    """Return the history as one self-contained page, the last night first; its texts are escaped."""
    ended = [entry for entry in entries if entry.get("drift")]
    names = dict.fromkeys(name for entry in ended[-NIGHTS_SHOWN:] for name in entry["drift"])
    return render_page(
        "history.html.j2",
        entries=list(reversed(entries)),
        nights=[entry["night"] for entry in ended[-NIGHTS_SHOWN:]],
        drift={name: _figures(name, ended) for name in names},
        published=next((entry for entry in reversed(entries) if entry["decision"] == "published"), None),
        before=BEFORE,
        deviations=DEVIATIONS,
    )


def _figures(name: str, ended: Sequence[Mapping[str, Any]]) -> list[tuple[float | None, bool]]:
    """Return a figure of each of the last nights, and whether it is far from those of all nights before."""
    values = [entry["drift"].get(name) for entry in ended]
    return [(values[index], is_far(values[index], values[:index])) for index in range(len(values))][-NIGHTS_SHOWN:]


def is_far(value: float | None, earlier: Sequence[float | None]) -> bool:
    """Return true for a value more than `DEVIATIONS` standard deviations from the mean of `BEFORE` or more others."""
    return abs(deviation(value, earlier)) > DEVIATIONS


def deviation(value: float | None, earlier: Sequence[float | None]) -> float:
    """Return how many standard deviations a value is above the mean of `BEFORE` or more others; 0 without a value,
    and for fewer others."""
    known = [each for each in earlier if each is not None]
    if value is None or len(known) < BEFORE:
        return 0.0
    # Nights that were all alike have no deviation but that of rounding.
    return (value - float(np.mean(known))) / max(float(np.std(known, ddof=1)), 1e-9)


def last_deviations(entries: Sequence[NightEntry]) -> dict[str, float]:
    """Return the `deviation` of each figure of the last night that has any, by name."""
    *earlier, last = [entry["drift"] for entry in entries if entry.get("drift")] or [{}]
    return {name: deviation(value, [each.get(name) for each in earlier]) for name, value in last.items()}


def last_decision(entries: Sequence[NightEntry]) -> float:
    """Return when the last of some nights was decided, in seconds since 1970; 0 where no entry says so."""
    times = [created for entry in entries if (created := _NightLine.model_validate(entry).created)]
    return max(times).timestamp() if times else 0.0
