"""Leases: of all runs with the same output, on any machine, one at a time writes it.

    OUTPUT/.lease/00001.json    who writes the output, on which machine; written anew every few seconds while it runs

A run takes the number behind the highest one, which the store creates for one run only. The highest number has the
output: a slow run that was taken for dead finds that it was overtaken. A finished output has no leases: those of a
run that was killed behind its manifest go with the next call.

Whether a process of this machine runs is known at once. One of another machine is dead when its lease does not change
for `LEASE_S` of this machine's clock: no two clocks are compared.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rrad_ray.errors import RradError
from rrad_ray.progress import say
from rrad_ray.tables.files import create_text, exists, join, listed, remove, write_text
from rrad_ray.tables.json_files import json_text
from rrad_ray.tables.text import read_json

LEASES = ".lease"

RENEW_S, LEASE_S = 10.0, 60.0  # how often a lease is written anew, and how long a silent one is waited for

_NAME = re.compile(r"([0-9]{5,18})\.json")

LOOK_S = 1.0  # between two looks at the lease of another machine


def machine_mark() -> str:
    """Return a mark that is equal for processes that see each other's ids: host, boot and PID namespace."""
    marks = [socket.gethostname()]
    with suppress(OSError):  # of systems without /proc
        marks += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(marks)


def process_mark(pid: int) -> str | None:
    """Return when a process of this machine began, in a unit of the system's; empty where that cannot be seen, None
    where no such process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # it is another user's
        pass
    try:
        state, *facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return None if state in "ZX" else facts[18]  # a killed process stays until its parent has asked for it


class Lease:
    """The right to write the output at `uri`, in a `with` block. Entering it raises `RradError` where another run has
    it, and waits up to `LEASE_S` for one of another machine that may be dead. `lost`: whether another run was seen to
    have taken it since."""

    def __init__(self, uri: str, stage: str, folder: str = LEASES) -> None:
        self.uri, self.folder, self.number, self.lost = uri, folder, 0, False
        self.over, self.writing = threading.Event(), threading.Lock()
        facts: dict[str, Any] = {"stage": stage, "host": socket.gethostname(), "machine": machine_mark()}
        facts |= {"pid": os.getpid(), "process": process_mark(os.getpid()), "id": uuid.uuid4().hex}
        self.facts = facts | {"since": time.strftime("%Y-%m-%d %H:%M:%S %Z"), "renewed": 0}

    def __enter__(self) -> Lease:
        refused = 0
        while not self.number:
            free = self._free_number()
            created = create_text(self._place(free), self._text())
            number, holder = self._last()
            if (number, holder) == (free, self.facts):  # else another run was faster
                self.number = free
            elif not created and number < free == refused:  # it is there and is no lease, as a folder
                raise RradError(self._place(free), "cannot be created, and is no file", "delete it")
            refused = 0 if created else free
        threading.Thread(target=self._keep, name=f"lease of {self.uri}", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.over.set()
        with suppress(RradError), self.writing:  # a lease that stays is that of a dead process
            self.check()
            if kind is None:
                remove(join(self.uri, self.folder))
            else:
                self.facts["ended"] = True
                write_text(self._place(self.number), self._text(), durable=False)

    def __getstate__(self) -> dict[str, Any]:
        """Return what an actor's copy needs, which can check the lease and does not write it."""
        return {name: value for name, value in vars(self).items() if name not in ("over", "writing")}

    def check(self) -> None:
        """Raise `RradError` where this run has lost the output, to another one or with the folder."""
        number, holder = self._last()
        self.lost = number != self.number or holder.get("id") != self.facts["id"]
        if self.lost:
            problem = f"{_run_of(holder)} has taken it over" if number else "it was deleted while this run wrote it"
            raise RradError(self.uri, problem, "run again, one run at a time")

    def _keep(self) -> None:
        """Write the lease anew until the block ends or another run has it."""
        while not self.lost and not self.over.wait(RENEW_S):
            with suppress(RradError), self.writing:  # of a store that does not answer; the run's own writes report it
                self.check()
                if not self.over.is_set():
                    self.facts["renewed"] += 1
                    write_text(self._place(self.number), self._text(), durable=False)

    def _free_number(self) -> int:
        """Return the number to take. Raises `RradError` where the run with the highest one still runs."""
        number, holder = self._last()
        first, began = holder, time.monotonic()
        while number and not _is_over(holder):
            if holder != first or holder.get("machine") == self.facts["machine"]:
                problem = f"{_run_of(holder)} writes it"
                raise RradError(self.uri, problem, "wait for that run or end it, or choose a new output")
            if time.monotonic() - began >= LEASE_S:
                break
            if holder is first:
                say(f"{_run_of(holder)} had this output: waiting {LEASE_S:.0f} s for a sign of life")
            time.sleep(LOOK_S)
            number, holder = self._last()
        return number + 1

    def _place(self, number: int) -> str:
        return join(self.uri, self.folder, f"{number:05d}.json")

    def _text(self) -> str:
        return json_text(self.facts)

    def _last(self) -> tuple[int, dict[str, Any]]:
        """Return the highest number and who has it: 0 without any lease; no facts of one that cannot be read yet."""
        # Copies that sync programs make of them are called otherwise, as `00001 (conflicted copy).json`.
        matches = filter(None, map(_NAME.fullmatch, listed(join(self.uri, self.folder))))
        number = max((int(match[1]) for match in matches), default=0)
        try:
            return number, _facts(read_json(self._place(number))) if number else {}
        except RradError as error:
            if isinstance(error.__cause__, ValueError | FileNotFoundError):  # half written, or just deleted
                return number, {}
            raise


def clear_leases(uri: str, stage: str, folder: str = LEASES) -> None:
    """Delete the leases of a finished output whose run was killed before it did; those of a run that lives stay, as
    where the user may not delete them."""
    if exists(join(uri, folder)):
        with suppress(RradError), Lease(uri, stage, folder):
            pass


def _facts(content: Any) -> dict[str, Any]:
    """Return the facts of a lease; none of a file that lacks any of them, which cannot be read as one."""
    whole = isinstance(content, dict) and {"stage", "host", "machine", "since", "process", "id"} <= content.keys()
    pid = content.get("pid") if whole else None
    return content if isinstance(pid, int) and 0 < pid < 2**31 else {}


def _is_over(holder: Mapping[str, Any]) -> bool:
    """Return true for the lease of a run that has ended, or of a process of this machine that does not run."""
    if holder.get("ended"):
        return True
    if holder.get("machine") != machine_mark():
        return False
    began, mark = holder["process"], process_mark(holder["pid"])
    return mark is None or bool(mark and began and mark != began)  # another process may have got the number since


def _run_of(holder: Mapping[str, Any]) -> str:
    """Return a run in words."""
    if not holder:
        return "another run"
    return f"{holder['stage']}, process {holder['pid']} on {holder['host']} since {holder['since']},"
