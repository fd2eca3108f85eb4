"""Work of a replica beside its requests: new winners go live, keys are read again, events go to the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from rrad_ray import tables
from rrad_ray.evaluation.night_history import NIGHTS_FILE, last_decision, last_deviations, read_nights
from rrad_ray.online.event_journal import EventJournal
from rrad_ray.serving import winners
from rrad_ray.serving.api_keys import ApiKeys
from rrad_ray.serving.scorer import Model
from rrad_ray.serving.service_metrics import ServiceMetrics
from rrad_ray.tables.files import listed, version_mark

logger = logging.getLogger("ray.serve")


LONGEST_WAIT_S = 60.0  # between two tries of a chore that fails


class Chores:
    """Chores that are repeated until `cancel`.

    An error is logged, and the chore is tried again: after twice the time for each failure in a row, up to a minute.
    """

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    def repeat(self, every_s: float, chore: Callable[[], Awaitable[None]]) -> None:
        """Repeat a chore every so many seconds, 0 for never; the caller is in the loop that answers requests."""
        if every_s:
            self.tasks.append(asyncio.create_task(self._forever(every_s, chore)))

    async def _forever(self, every_s: float, chore: Callable[[], Awaitable[None]]) -> None:
        wait_s = every_s
        while True:
            await asyncio.sleep(wait_s)
            try:
                await chore()
                wait_s = every_s
            except Exception as error:
                wait_s = max(every_s, min(2 * wait_s, LONGEST_WAIT_S))
                logger.error(f"the endpoint goes on, but: {error}")

    def cancel(self) -> None:
        """End all of them."""
        for task in self.tasks:
            task.cancel()


class WinnerWatch:
    """A watch over the inputs of an endpoint: where another winner appears, its model replaces the old one.

    `models` is changed in place. `model_uris` are the inputs by name, `root` is the folder of relative paths.
    `load(served)` raises `ScoreMismatch` for a winner that does not score as it did when it won.
    """

    def __init__(
        self,
        models: dict[str, Model],
        model_uris: Mapping[str, str],
        root: str,
        load: Callable[[winners.ServedModel], Model],
        metrics: ServiceMetrics,
    ) -> None:
        self.models, self.model_uris, self.root, self.load, self.metrics = models, model_uris, root, load, metrics
        self.refused: dict[str, str] = {}  # by name: the fingerprint of the winner that was refused last

    async def look(self) -> None:
        """Look at each input once, and swap the models whose winner is another one than before.

        Raises the first error once all were looked at: who writes to one input keeps no other from changing.
        """
        errors = list[Exception]()
        for name, uri in self.model_uris.items():
            try:
                await self._look_at(name, uri)
            except Exception as error:
                self.metrics.behind(name, True)
                errors.append(error)
        if errors:
            raise errors[0]

    async def _look_at(self, name: str, uri: str) -> None:
        served = await asyncio.to_thread(winners.find_winner, uri, self.root)
        if served.fingerprint not in (self.models[name].served.fingerprint, self.refused.get(name)):
            await self._swap(name, served)
        self.metrics.behind(name, served.fingerprint != self.models[name].served.fingerprint)

    async def _swap(self, name: str, served: winners.ServedModel) -> None:
        """Load a new winner and give it the requests from now on; the old one finishes those that it has."""
        try:
            self.models[name] = await asyncio.to_thread(self.load, served)
        except winners.ScoreMismatch:
            # It would score so again, and loading it takes cores from the requests.
            self.refused[name] = served.fingerprint
            self.metrics.winner("refused")
            raise
        self.metrics.winner("live")
        logger.warning(f"'{served.name}' is live")


class NightWatch:
    """A watch over the history of a store's nights: the metrics show the last one's drift; a folder without a history
    has none.

    A night's job has ended before Prometheus asks it for metrics. The endpoint that serves its winner goes on.
    """

    def __init__(self, store: str, metrics: ServiceMetrics) -> None:
        self.store, self.metrics, self.seen = store, metrics, ""

    async def look(self) -> None:
        """Read the history where it has changed. Raises `RradError` for a line that is no entry."""
        facts = (await asyncio.to_thread(listed, tables.join(self.store, NIGHTS_FILE))).get("")
        if facts is None or (mark := version_mark(facts)) == self.seen:
            return
        entries = await asyncio.to_thread(read_nights, self.store)
        self.metrics.night(last_decision(entries), last_deviations(entries))
        self.seen = mark


async def refresh_keys(keys: ApiKeys) -> None:
    """Read the file of keys again, in a thread."""
    await asyncio.to_thread(keys.refresh)


async def flush_journal(journal: EventJournal, metrics: ServiceMetrics) -> None:
    """Write the events of this process, and those that killed ones left on this machine, to the store.

    Raises `OSError` if the store does not take them; they stay on the disk.
    """
    await journal.flush()
    metrics.events_held(journal.held)
    if journal.set_aside:
        metrics.events_set_aside(journal.set_aside)
        journal.set_aside = 0
    if journal.failed:
        raise OSError(f"{journal.held} events wait on this disk: {journal.failed}")
