"""The events of an online test at the endpoint: pages that were shown, and clicks on them, into the journal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from rrad_ray.errors import InvalidInput
from rrad_ray.online.event_journal import EventJournal, JournalFull, beside_loop
from rrad_ray.online.event_rows import CLICKS, EXPOSURES
from rrad_ray.online.signatures import ExposureSigner
from rrad_ray.rows import Exposure
from rrad_ray.serving.click_gate import ClickGate
from rrad_ray.serving.errors import HTTPError
from rrad_ray.serving.service_metrics import ServiceMetrics

logger = logging.getLogger("ray.serve")


class OnlineEvents:
    """The journal of a test behind its checks; without a `signer` all clicks that can be stored are taken.

    `now` gives seconds since 1970.
    """

    def __init__(
        self,
        journal: EventJournal,
        signer: ExposureSigner | None,
        gate: ClickGate | None,
        metrics: ServiceMetrics,
        now: Callable[[], float],
    ) -> None:
        self.journal, self.signer, self.gate, self.metrics, self.now = journal, signer, gate, metrics, now

    async def expose(self, row: Exposure) -> str:
        """Log what a unit sees; return what clicks name the page by, empty if it is not on disk."""
        try:
            await self._log(EXPOSURES, [row])
        except HTTPError as error:
            self.metrics.exposure_lost()
            logger.error(f"a page was answered without an exposure: {error}")
            return ""
        return self.signer.sign(row["request_id"], row["unit"], row["time"]) if self.signer else row["request_id"]

    async def accept(self, clicks: list[dict[str, Any]], unit: str) -> dict[str, Any]:
        """Log clicks; return how many are on disk and, where they are checked, how many were refused by reason.

        `unit` is who sends them, empty if that is not known. Raises `HTTPError` as `_log` does.
        """
        if self.gate is None:
            if clicks:  # of UBI's events there may be none
                await self._log(CLICKS, clicks)
            return {"accepted": len(clicks)}
        pages = await beside_loop(self.gate.pages, clicks, unit)
        passing, refused = self.gate.check(clicks, pages, self.now())
        for reason, count in refused.items():
            self.metrics.clicks_refused(reason, count)
        if passing:
            await self._log(CLICKS, passing)
            self.gate.passed(passing)
        return {"accepted": len(passing), "refused": dict(refused)}

    async def _log(self, kind: str, rows: Sequence[Any]) -> None:
        """Write events to the journal.

        Raises `HTTPError`: 422 for one that cannot be stored, 503 if the journal is full or the disk fails.
        """
        try:
            await self.journal.add(kind, list(rows))
        except InvalidInput as error:
            raise HTTPError(422, "events", error.problem) from error
        except (JournalFull, OSError) as error:
            raise HTTPError(503, "events", str(error)) from error
        self.metrics.events_held(self.journal.held)
