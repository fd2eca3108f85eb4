"""Clicks at the door of an online test: late ones, repeated ones, too many."""

from __future__ import annotations

from typing import Any

import pytest

from rrad_ray.online.signatures import ExposureSigner
from rrad_ray.serving.click_gate import REMEMBERED, ClickGate

SIGNER = ExposureSigner("s" * 32, "test")
SHOWN = 1000.0


def click(event: str = "1", page: int = 0, time: float = SHOWN, **keys: Any) -> dict[str, Any]:
    token = SIGNER.sign(f"{page:032x}", "ann", SHOWN)
    return {"request_id": token, "event_id": event, "doc_id": "d", "position": 1, "time": time, **keys}


def send(gate: ClickGate, *clicks: dict[str, Any], unit: str = "", now: float = SHOWN) -> tuple[int, dict[str, int]]:
    passing, refused = gate.check(clicks, gate.pages(clicks, unit), now)
    gate.passed(passing)
    return len(passing), dict(refused)


@pytest.fixture
def gate() -> ClickGate:
    return ClickGate(SIGNER, max_age_s=3600.0, max_clicks=3)


@pytest.mark.parametrize(
    ("time", "now", "passes"),
    [
        (SHOWN, SHOWN, True),
        (SHOWN - 60, SHOWN, True),  # two clocks
        (SHOWN - 61, SHOWN, False),
        (SHOWN + 61, SHOWN, False),  # not yet
        (SHOWN + 3600, SHOWN + 3600, True),
        (SHOWN + 3661, SHOWN + 3661, False),
        (SHOWN + 10, SHOWN + 3661, False),  # it says so, long after
        (0.0, SHOWN, False),
        (2.0**32, SHOWN, False),
    ],
)
def test_a_click_comes_between_its_page_and_the_end_of_its_time(
    gate: ClickGate, time: float, now: float, passes: bool
) -> None:
    assert send(gate, click(time=time), now=now) == ((1, {}) if passes else (0, {"late": 1}))


def test_a_page_has_so_many_clicks_and_each_event_of_it_once(gate: ClickGate) -> None:
    assert send(gate, click("1"), click("1"), click("2")) == (2, {"replayed": 1})
    assert send(gate, click("1"), click("3"), click("4")) == (1, {"replayed": 1, "too many": 1})
    assert send(gate, click("1", page=1)) == (1, {}), "another page has events of its own"


def test_a_forged_click_takes_no_place_and_no_event_of_the_page(gate: ClickGate) -> None:
    forged = [click(str(number), request_id=f"{0:032x}") for number in range(9)]
    assert send(gate, *forged) == (0, {"forged": 9})
    assert send(gate, *map(click, "123"), unit="bob") == (0, {"forged": 3})
    assert send(gate, *map(click, "123"), unit="ann") == (3, {})


def test_the_pages_that_are_remembered_are_bounded(gate: ClickGate) -> None:
    for page in range(REMEMBERED + 10):
        gate.passed([{"request_id": str(page), "event_id": "1"}])
    assert len(gate.seen) == REMEMBERED
