"""A place for tables is tried by a file of its own, which does not stay; S3's clock is compared with ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from rrad_ray.errors import RradError
from rrad_ray.runtime import doctor_store as store
from rrad_ray.tables.files import listed


@pytest.mark.parametrize("local", [True, False])
def test_a_store_that_works_is_left_as_it_was(local: bool, tmp_path: Path, s3_uri: str) -> None:
    uri = str(tmp_path) if local else s3_uri
    trip, *clock = store.check_store(uri)
    assert (trip.state, trip.remedy) == ("ok", "")
    assert trip.finding.startswith("a file was written, read, listed and deleted in")
    assert [check.state for check in clock] == ([] if local else ["ok"])
    assert list(listed(uri)) == []
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_that_is_not_there_and_a_denied_step_say_which_permission_is_missing(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [trip, clock] = store.check_store("s3://no-such-bucket/runs")
    assert (trip.state, clock.state) == ("failed", "ok")
    assert trip.finding.startswith("write failed:")
    assert trip.remedy.startswith("grant s3:PutObject if it was denied; ")

    def denied(uri: str) -> None:
        raise RradError(uri, "Access Denied", "check the credentials")

    monkeypatch.setattr(store, "listed", denied)
    trip = store.check_store(s3_uri)[0]
    assert (trip.finding, trip.remedy) == (
        "list failed: Access Denied",
        "grant s3:ListBucket if it was denied; check the credentials",
    )
    assert list(listed(s3_uri)) == [], "what was written is deleted all the same"


@pytest.mark.parametrize(
    ("behind_s", "state", "words"),
    [
        (0, "ok", "within"),
        (120, "warning", "s behind: times of events mislead"),
        (-1000, "failed", "s ahead, and S3 refuses more than 15 minutes"),
    ],
)
def test_a_clock_that_is_off_is_told_before_s3_refuses_it(
    behind_s: float, state: str, words: str, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now: Callable[[], float] = time.time
    skewed = SimpleNamespace(time=lambda: now() - behind_s, perf_counter=time.perf_counter)
    monkeypatch.setattr(store, "time", skewed)
    clock = store.check_store(s3_uri)[1]
    assert clock.state == state
    assert words in clock.finding


def test_a_store_that_does_not_answer_is_an_error_and_its_clock_a_warning(
    s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store.tables.filesystem("s3://b/")[0].clear_instance_cache()
    trip, clock = store.check_store("s3://elsewhere/runs")
    store.tables.filesystem("s3://b/")[0].clear_instance_cache()
    assert (trip.state, clock.state) == ("failed", "warning")
    assert "AWS_ENDPOINT_URL" in trip.remedy


@pytest.mark.parametrize("uri", ["", " "])
def test_no_name_is_no_place(uri: str) -> None:
    [check] = store.check_store(uri)
    assert (check.state, check.finding) == ("failed", "names no place")
