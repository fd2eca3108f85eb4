"""Progress lines for long work: plain lines, so that they read well in a terminal, a job log and a file."""

from __future__ import annotations

import time


class Progress:
    """`progress.add(32)` prints `[judge] 1,200 of 9,600 prompts, 12 %, 28.3/s, ETA 4:57` every few seconds.

    `done` of them were there before (a resumed run): they count in the share, not in the rate.
    """

    def __init__(self, stage: str, total: int, unit: str, *, done: int = 0, every_s: float = 10.0) -> None:
        self.stage, self.total, self.unit, self.every_s = stage, total, unit, every_s
        self.before = self.count = done
        self.began = self.told = time.monotonic()

    def add(self, count: int = 1, note: str = "") -> None:
        self.count += count
        now = time.monotonic()
        if now - self.told < self.every_s and self.count < self.total:
            return
        self.told = now
        print(self.line(now, note), flush=True)

    def line(self, now: float, note: str = "") -> str:
        rate = (self.count - self.before) / max(now - self.began, 1e-9)
        left = int((self.total - self.count) / rate) if rate > 0 else 0
        share = 100 * self.count / max(self.total, 1)
        text = f"[{self.stage}] {self.count:,} of {self.total:,} {self.unit}, {share:.0f} %, {rate:.1f}/s"
        return f"{text}, ETA {left // 60}:{left % 60:02d}{f', {note}' if note else ''}"
