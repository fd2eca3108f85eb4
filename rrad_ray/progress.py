"""Progress lines for long work: plain lines, so that they read well in a terminal, a job log and a file."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from rrad_ray.errors import stage_name

# On the terminal our progress lines stand alone. Read by these libraries when they are imported.
QUIET_LIBRARIES = {"TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}


CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed


def printable(text: str) -> str:
    """Return a text with escapes for control characters: names and reasons come from buckets too, and would steer the
    terminal, its title and what is copied from it."""
    return CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def spell_out() -> None:
    """Have an output of a narrow encoding, as of a container without a locale, show letters that it lacks as escapes,
    and not end by them."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Print a line for the user, behind the name of the stage that runs."""
    print(f"[{stage_name() or 'rrad'}] {printable(text)}", flush=True)


class Progress:
    """Progress lines: `progress.add(32)` prints `[judge] 1,200 of 9,600 prompts, 12 %, 28.3/s, ETA 4:57` every few
    seconds.

    `done` of them were there before (a resumed run). Rate and ETA count from the first `add`: neither earlier runs
    nor the minute that an engine takes to start belong to them.
    """

    def __init__(self, total: int, unit: str, *, done: int = 0, every_s: float = 10.0) -> None:
        self.total, self.unit, self.every_s = total, unit, every_s
        self.before = self.count = done
        self.began: float | None = None
        self.printed = time.monotonic()

    def add(self, count: int = 1, note: str | Callable[[], str] = "") -> None:
        """Count, and print when it is time; `note`, a text or a function that makes it, ends the line."""
        self.count += count
        now = time.monotonic()
        if self.began is None:
            self.began, self.before = now, self.count
        if now - self.printed < self.every_s and self.count < self.total:
            return
        self.printed = now
        say(self.line(note() if callable(note) else note))

    def state(self) -> dict[str, Any]:
        """Return the progress as JSON-ready values: rate per second, `left_s` null before there is one."""
        seconds = time.monotonic() - self.began if self.began else 0.0
        rate = (self.count - self.before) / seconds if seconds > 0 else 0.0
        left = (self.total - self.count) / rate if rate else None
        return {"unit": self.unit, "done": self.count, "total": self.total, "rate": rate, "left_s": left}

    def line(self, note: str = "") -> str:
        """Return the line that `add` prints."""
        now = self.state()
        share = 100 * self.count / max(self.total, 1)
        parts = [f"{self.count:,} of {self.total:,} {self.unit}", f"{share:.0f} %"]
        if now["left_s"] is not None:
            left = int(now["left_s"])
            parts += [f"{now['rate']:.1f}/s", f"ETA {left // 60}:{left % 60:02d}"]
        return ", ".join([*parts, *([note] if note else [])])
