"""The result of one check, and its line on the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rrad_ray.errors import RradError

MARKS = {"ok": "ok  ", "warning": "warn", "failed": "FAIL"}


@dataclass(frozen=True)
class Check:
    """`subject`: what was looked at; `finding`: what it is like; `remedy`: what to do, empty for nothing; `node`: the
    cluster's node where that was, empty for this machine.

    `warning`: something works without it, as serving does without vLLM. `failed`: runs fail.
    """

    subject: str
    state: Literal["ok", "warning", "failed"]
    finding: str
    remedy: str = ""
    node: str = ""


def failure(subject: str, error: RradError) -> Check:
    """Return the check that an error of ours has ended."""
    return Check(subject, "failed", error.problem, error.remedy)


def line_of(check: Check) -> str:
    """Return a check as a line for a terminal."""
    subject = f"{check.node}: {check.subject}" if check.node else check.subject
    remedy = f"; {check.remedy}" if check.remedy else ""
    return f"{MARKS[check.state]}  {subject:28}  {check.finding}{remedy}"
