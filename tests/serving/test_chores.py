"""Work beside requests: winners that change, keys that are read again, events on their way to the store."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rrad_ray.errors import RradError
from rrad_ray.evaluation.night_history import record_night
from rrad_ray.online import event_log
from rrad_ray.online.event_journal import EventJournal
from rrad_ray.serving import chores
from rrad_ray.serving.api_keys import ApiKeys
from rrad_ray.serving.chores import Chores, NightWatch, WinnerWatch, flush_journal, refresh_keys
from rrad_ray.serving.winners import ScoreMismatch, ServedModel, find_winner
from tests.winners import write as write_winner


def test_a_chore_is_repeated_after_an_error_until_it_is_cancelled() -> None:
    times: list[int] = []

    async def chore() -> None:
        times.append(len(times))
        if len(times) == 1:
            raise RuntimeError("the store is away")

    async def run() -> int:
        repeated = Chores()
        repeated.repeat(0.001, chore)
        while len(times) < 3:
            await asyncio.sleep(0.001)
        repeated.cancel()
        await asyncio.gather(*repeated.tasks, return_exceptions=True)
        count = len(times)
        await asyncio.sleep(0.01)
        return len(times) - count

    assert asyncio.run(run()) == 0


def test_a_chore_that_fails_is_tried_at_longer_and_longer_intervals_up_to_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits, fails = list[float](), [True] * 5 + [False, True, False]

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def chore() -> None:
        if not fails:
            raise asyncio.CancelledError
        if fails.pop(0):
            raise OSError("the store is away")

    monkeypatch.setattr(chores.asyncio, "sleep", sleep)
    for every_s, expected in ((5.0, [5, 10, 20, 40, 60, 60, 5, 10, 5]), (90.0, [90] * 9)):
        waits.clear()
        fails[:] = [True] * 5 + [False, True, False]

        async def run(every_s: float = every_s) -> None:
            each = Chores()
            each.repeat(every_s, chore)
            await asyncio.gather(*each.tasks, return_exceptions=True)

        asyncio.run(run())
        assert waits == expected


def test_a_chore_of_0_seconds_is_never_done() -> None:
    async def run() -> list[Any]:
        repeated = Chores()
        repeated.repeat(0, lambda: pytest.fail("done"))
        return repeated.tasks

    assert asyncio.run(run()) == []


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Write a winner called `first`; its checkpoint is a ranker as far as it is looked at without loading it."""
    (tmp_path / "tiny").mkdir()
    content = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(content))
    write_winner(tmp_path / "winner", "first", tmp_path / "tiny", {})
    return str(tmp_path / "winner")


def publish(uri: str, system: str) -> None:
    write_winner(Path(uri), system, Path(uri).parent / "tiny", {})


class Loader:
    """A loader of models that refuses the winners called `wrong` and counts what it loads."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def __call__(self, served: ServedModel) -> Any:
        self.loaded.append(served.name)
        if served.name == "wrong":
            raise ScoreMismatch("folder", "scores differ", "run select again")
        if served.name == "broken":
            raise RradError("folder", "cannot be read", "look at it")
        return SimpleNamespace(served=served)


def watch(uri: str) -> tuple[WinnerWatch, Loader, list[str], dict[str, bool]]:
    """Return a watch over a winner that is served already, its loader, the results that it counts, and which models
    are behind their inputs."""
    load, results, older = Loader(), list[str](), dict[str, bool]()
    metrics: Any = SimpleNamespace(winner=results.append, behind=older.__setitem__)
    models = {"winner": load(find_winner(uri))}
    load.loaded.clear()
    return WinnerWatch(models, {"winner": uri}, "", load, metrics), load, results, older


def test_a_new_winner_goes_live_once_and_the_same_one_is_not_loaded_again(uri: str) -> None:
    winner_watch, load, results, older = watch(uri)
    asyncio.run(winner_watch.look())
    assert (load.loaded, results) == ([], [])
    publish(uri, "second")
    for _ in range(2):
        asyncio.run(winner_watch.look())
    assert winner_watch.models["winner"].served.name == "second"
    assert (load.loaded, results, older) == (["second"], ["live"], {"winner": False})


def test_a_winner_that_does_not_score_as_it_did_is_refused_once_and_the_old_one_stays(uri: str) -> None:
    winner_watch, load, results, older = watch(uri)
    publish(uri, "wrong")
    with pytest.raises(ScoreMismatch):
        asyncio.run(winner_watch.look())
    asyncio.run(winner_watch.look())
    assert (load.loaded, results) == (["wrong"], ["refused"]), "it would score so again"
    assert older == {"winner": True}
    assert winner_watch.models["winner"].served.name == "first"
    publish(uri, "second")
    asyncio.run(winner_watch.look())
    assert winner_watch.models["winner"].served.name == "second"
    assert older == {"winner": False}


def test_a_broken_winner_of_one_model_keeps_no_other_from_going_live(uri: str) -> None:
    winner_watch, load, results, older = watch(uri)
    write_winner(Path(uri).parent / "other", "first", Path(uri).parent / "tiny", {})
    other = str(Path(uri).parent / "other")
    winner_watch.models |= {"other": SimpleNamespace(served=find_winner(other))}
    winner_watch.model_uris = {"winner": uri, "other": other}
    (Path(uri) / "winner.json").write_text("{")
    publish(other, "second")
    with pytest.raises(RradError, match="holds no winner"):
        asyncio.run(winner_watch.look())
    served = {name: model.served.name for name, model in winner_watch.models.items()}
    assert served == {"winner": "first", "other": "second"}
    assert (load.loaded, results, older) == (["second"], ["live"], {"winner": True, "other": False})


def test_a_winner_that_cannot_be_loaded_is_tried_again(uri: str) -> None:
    winner_watch, load, results, older = watch(uri)
    publish(uri, "broken")
    for _ in range(2):
        with pytest.raises(RradError):
            asyncio.run(winner_watch.look())
    assert (load.loaded, results, older) == (["broken"] * 2, [], {"winner": True})
    assert winner_watch.models["winner"].served.name == "first"
    Path(uri, "winner.json").write_text("{}")
    with pytest.raises(RradError):
        asyncio.run(winner_watch.look())
    assert older == {"winner": True}
    publish(uri, "first")
    asyncio.run(winner_watch.look())
    assert older == {"winner": False}, "it is the one that is served"


def test_the_last_nights_drift_is_shown_once_for_each_night_and_a_folder_without_nights_shows_none(
    tmp_path: Path,
) -> None:
    store, shown = str(tmp_path), list[tuple[float, dict[str, float]]]()
    metrics: Any = SimpleNamespace(night=lambda *figures: shown.append(figures))
    night_watch = NightWatch(store, metrics)
    asyncio.run(night_watch.look())
    assert shown == []
    for number in range(6):
        facts = {"created": f"2026-11-0{number + 1}T02:00:00Z", "drift": {"words": float(number % 5), "new": None}}
        record_night(store, f"n{number}", "refused", "", **facts)
    for _ in range(2):
        asyncio.run(night_watch.look())
    decided, deviations = 1793930400.0, {"words": pytest.approx(-2 / 2.5**0.5), "new": 0.0}
    assert shown == [(decided, deviations)]
    record_night(store, "n6", "waits", "few queries", created="2026-11-07T02:00:00Z")
    asyncio.run(night_watch.look())
    assert shown[1:] == [(decided + 86_400, deviations)], "a night that waits has no drift of its own"


def test_a_history_that_cannot_be_read_is_an_error_until_it_is_mended(tmp_path: Path) -> None:
    shown = list[tuple[float, dict[str, float]]]()
    metrics: Any = SimpleNamespace(night=lambda *figures: shown.append(figures))
    night_watch = NightWatch(str(tmp_path), metrics)
    (tmp_path / "history.jsonl").write_text('{"night": "1", "decision": "refused", "created": "today"}\n')
    for _ in range(2):
        with pytest.raises(RradError, match=r"history\.jsonl:1: no entry of a night"):
            asyncio.run(night_watch.look())
    (tmp_path / "history.jsonl").write_text('{"night": "1", "decision": "refused"}\n')
    asyncio.run(night_watch.look())
    assert shown == [(0.0, {})]


def test_keys_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("old")
    keys = ApiKeys(str(tmp_path / "keys"))
    (tmp_path / "keys").write_text("new")
    asyncio.run(refresh_keys(keys))
    assert (keys.allow("Bearer old"), keys.allow("Bearer new")) == (False, True)


def click(number: int) -> dict[str, Any]:
    return {
        **{"event_id": f"e{number}", "request_id": "r", "doc_id": "d", "position": 1},
        **{"dwell_s": 1.0, "time": float(number)},
    }


def test_a_flush_writes_this_processs_events_and_those_that_another_one_left(tmp_path: Path) -> None:
    store, folder, held = str(tmp_path / "events"), str(tmp_path / "journal"), list[int]()
    metrics: Any = SimpleNamespace(events_held=held.append)

    async def run() -> None:
        killed = EventJournal(store, folder, most=10)
        await killed.add(event_log.CLICKS, [click(1)])
        assert killed.segment is not None
        killed.segment.close()  # as the system does when a process is killed: its lock is gone, its file stays
        journal = EventJournal(store, folder, most=10)
        await journal.add(event_log.CLICKS, [click(2)])
        await flush_journal(journal, metrics)

    asyncio.run(run())
    rows = event_log.read_click_events(store, lambda *bad: pytest.fail(str(bad)))
    assert sorted(row["event_id"] for row in rows) == ["e1", "e2"]
    assert held == [0]


def test_rows_that_were_set_aside_are_counted_once(tmp_path: Path) -> None:
    store, folder, counted = str(tmp_path / "events"), tmp_path / "journal", list[int]()
    metrics: Any = SimpleNamespace(events_held=lambda count: None, events_set_aside=counted.append)
    folder.mkdir(mode=0o700)
    (folder / "a.events").write_text(f"no row\n{json.dumps(['clicks', click(1)])}\nnor this\n")
    journal = EventJournal(store, str(folder), most=10)
    for _ in range(2):
        asyncio.run(flush_journal(journal, metrics))
    assert counted == [2]


def test_events_that_the_store_does_not_take_stay_and_the_flush_says_so(tmp_path: Path) -> None:
    store, held = tmp_path / "events", list[int]()
    store.write_text("no folder")
    metrics: Any = SimpleNamespace(events_held=held.append)

    async def run() -> None:
        journal = EventJournal(str(store), str(tmp_path / "journal"), most=10)
        await journal.add(event_log.CLICKS, [click(1)])
        with pytest.raises(OSError, match="1 events wait on this disk"):
            await flush_journal(journal, metrics)

    asyncio.run(run())
    assert held == [1]
