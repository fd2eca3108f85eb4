"""Clicks are checked as they come against the pages that an online test has signed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from cachetools import LRUCache

from rrad_ray.online.signatures import ExposureSigner, SignedPage

REMEMBERED = 10_000  # pages whose clicks a replica knows; `experiment` counts a click once however often it comes
CLOCKS_DIFFER_S = 60.0  # that the clocks of replicas and senders may differ

Seen = dict[str, set[int]]  # by page: hashes of its events


class ClickGate:
    """The check of clicks whose `request_id` is a token: those of pages that were shown pass, by the page's own id.

    `max_age_s` is the time between a page and a click on it, `max_clicks` is of a page. `passed` has to be called
    with what is on disk, so that a click which could not be logged may come again.
    """

    def __init__(self, signer: ExposureSigner, max_age_s: float, max_clicks: int) -> None:
        self.signer, self.max_age_s, self.max_clicks = signer, max_age_s, max_clicks
        self.seen: LRUCache[str, set[int]] = LRUCache(REMEMBERED)

    def pages(self, clicks: Sequence[dict[str, Any]], unit: str) -> list[SignedPage | None]:
        """Return the page of each click, None for one that was not shown to `unit`, empty if that is not known."""
        digest = self.signer.unit_digest(unit) if unit else ""
        pages = (self.signer.verify(click["request_id"]) for click in clicks)
        return [page if page is not None and digest in ("", page.unit_digest) else None for page in pages]

    def check(
        self, clicks: Sequence[dict[str, Any]], pages: Sequence[SignedPage | None], now: float
    ) -> tuple[list[Any], Counter[str]]:
        """Return the clicks that pass, and the number of the others by reason.

        `pages`: of the clicks, as `pages` returns them. `now`: seconds since 1970.
        """
        passing, refused, fresh = list[Any](), Counter[str](), Seen()
        for click, page in zip(clicks, pages, strict=True):
            if page is None:
                refused["forged"] += 1
                continue
            events = fresh.setdefault(page.request_id, set(self.seen.get(page.request_id, ())))
            event = hash(click["event_id"])
            if not self._is_in_time(click["time"], page.time, now):
                refused["late"] += 1
            elif event in events:
                refused["replayed"] += 1
            elif len(events) >= self.max_clicks:
                refused["too many"] += 1
            else:
                events.add(event)
                passing.append({**click, "request_id": page.request_id})
        return passing, refused

    def _is_in_time(self, clicked: float, shown: float, now: float) -> bool:
        latest = min(now, shown + self.max_age_s) + CLOCKS_DIFFER_S
        return shown - CLOCKS_DIFFER_S <= clicked <= latest and now <= shown + self.max_age_s + CLOCKS_DIFFER_S

    def passed(self, clicks: Sequence[dict[str, Any]]) -> None:
        """Remember clicks that are on disk."""
        for click in clicks:
            events = self.seen.get(click["request_id"], set())
            self.seen[click["request_id"]] = events | {hash(click["event_id"])}
