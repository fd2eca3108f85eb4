"""A run on S3 that is killed or stands still at any of its requests: another run goes on, and the table is whole."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import pytest
from moto.s3.exceptions import PreconditionFailed, S3ClientError
from moto.s3.responses import S3Response

from rrad_ray import tables
from rrad_ray.errors import RradError
from rrad_ray.rows import Candidates, Quarantined
from rrad_ray.tables import files, leases
from tests.commands import PATIENCE_S
from tests.fixtures import row_of
from tests.tables.test_leases import Config, stage_of

PARTS = [tables.part_name(number) for number in range(3)]
ROWS = [f"{name} {row}" for name in PARTS for row in range(2)]
WHOLE = {"manifest.json", "started.json", "quarantine/part-00000.parquet", *PARTS}
LATER = multiprocessing.get_context("forkserver")  # a fork of this process would have its locks without its threads
LATER.set_forkserver_preload([__name__, "s3fs"])
RENEWING = ContextVar("RENEWING", default=False)
SLICES = 8
AT = [("change", 1, 1)]  # before which requests, from which one on, and each so many
# What the store holds after a request, it holds before the next one.
AT += [  # type: ignore[misc]
    pytest.param("every", first, SLICES, marks=pytest.mark.slow) for first in range(1, SLICES + 1)
]
EACH_STOP = pytest.mark.parametrize(("requests", "first", "each"), AT)
FAR = pytest.param(True, id="another machine", marks=pytest.mark.slow)
WHERE = pytest.mark.parametrize("far", [pytest.param(False, id="this machine"), FAR])
KILL, STOP, WAIT = signal.SIGKILL, signal.SIGSTOP, 0


@dataclass(frozen=True)
class Stop:
    """Where a run stops: before one of its requests, of `every` one or those that `change` the store, counted from 1
    and without renewals of its lease. By a signal, or the request waits while renewals go on. `far`:
    the run is on another machine."""

    by: int
    requests: str
    step: int
    far: bool = False


def three_parts(cfg: Config, out: tables.Output) -> None:
    """Write the parts that are not there yet, as `judge` does; the rows name the process."""
    done = out.parts()
    for name in PARTS:
        if name not in done:
            out.write_part(name, [row_of(row, [str(os.getpid())]) for row in ROWS if row.startswith(name)])
    out.quarantine("bad", "no text")
    out.commit(rows=len(ROWS), planned=PARTS)


def first_run(uri: str, stop: Stop, environment: dict[str, str], test: Connection) -> None:
    """Run the stage in this process. Send where it stops whether its lease is renewed, and go on when something comes
    back; send in the end what it raised, empty for nothing."""
    from aiobotocore.client import AioBaseClient

    os.environ.update(environment)
    request, renew, count, renews = AioBaseClient._make_api_call, leases.Lease._keep, 0, False

    def wait() -> None:
        test.send(renews)
        if stop.by:
            os.kill(os.getpid(), stop.by)
        test.recv()

    async def counted(self: Any, operation: str, facts: Any) -> Any:
        nonlocal count
        counts = stop.requests == "every" or operation.startswith(("Put", "Delete"))
        count += counts and not RENEWING.get()
        here = counts and not RENEWING.get() and count == stop.step
        if here:
            wait() if stop.by else await asyncio.to_thread(wait)
        return await request(self, operation, facts)

    def renewing(self: leases.Lease) -> None:
        nonlocal renews
        renews = True
        RENEWING.set(True)
        renew(self)

    AioBaseClient._make_api_call, leases.Lease._keep = counted, renewing
    leases.RENEW_S = 0.05 if stop.by == WAIT else leases.RENEW_S
    leases.LEASE_S, leases.LOOK_S = 0.5, 0.05
    if stop.far:
        leases.machine_mark = lambda: "far 1"
    try:
        stage_of(three_parts)(Config(uri))
        test.send("")
    except RradError as error:
        test.send(str(error))
    test.recv()


@contextmanager
def running(uri: str, stop: Stop) -> Iterator[tuple[multiprocessing.process.BaseProcess, Connection]]:
    """Run the stage in a process of its own."""
    here, there = LATER.Pipe()
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS")}
    process = LATER.Process(target=first_run, args=(uri, stop, environment, there))
    process.start()
    there.close()
    try:
        yield process, here
    finally:
        process.kill()
        process.join()
        here.close()


def received(connection: Connection) -> str | bool:
    assert connection.poll(PATIENCE_S)
    return connection.recv()  # type: ignore[no-any-return]


def stopped_runs(
    uri: str, stop: Stop, each: int
) -> Iterator[tuple[multiprocessing.process.BaseProcess, Connection, bool]]:
    """Yield runs that have stopped, one at its request `stop.step`, the next one `each` requests later, until one has
    come to its end without; and whether they renew their leases."""
    for step in itertools.count(stop.step, each):
        with running(uri, replace(stop, step=step)) as (process, connection):
            if isinstance(renews := received(connection), str):
                break
            yield process, connection, renews
        tables.remove(uri)
    expect_whole(uri)
    assert step > (50 if stop.requests == "every" else 7)


def expect_whole(uri: str) -> list[str]:
    """The table has each row once and nothing else is there; which process wrote each part."""
    rows = list(tables.read(uri, Candidates))
    assert [row["query_id"] for row in rows] == ROWS
    assert [row["id"] for row in tables.read_part(f"{uri}/quarantine", PARTS[0], Quarantined)] == ["bad"]
    assert set(files.listed(uri)) == WHOLE
    return [row["texts"][0] for row in rows[::2]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that a test has."""
    monkeypatch.setattr(leases, "LEASE_S", 0.5)
    monkeypatch.setattr(leases, "LOOK_S", 0.05)


@WHERE
@EACH_STOP
def test_a_run_that_is_killed_at_any_request_keeps_nobody_out_and_leaves_nothing_behind(
    s3_uri: str, requests: str, first: int, each: int, far: bool
) -> None:
    for process, _, _ in stopped_runs(s3_uri, Stop(KILL, requests, first, far), each):
        process.join(PATIENCE_S)
        assert process.exitcode == -KILL
        had = len(tables.part_names(s3_uri))
        stage_of(three_parts)(Config(s3_uri))
        writers = expect_whole(s3_uri)
        assert [writer == str(process.pid) for writer in writers] == [number < had for number in range(3)]


@WHERE
@pytest.mark.parametrize(("requests", "first", "each"), AT[:1])  # at every one it takes a quarter of an hour
def test_a_run_that_lives_is_robbed_at_no_request(
    s3_uri: str, requests: str, first: int, each: int, far: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 5.0)  # for a sign of life on a busy machine
    had_it = set()
    for process, connection, renews in stopped_runs(s3_uri, Stop(WAIT, requests, first, far), each):
        # One of another machine that hangs in its claim gives no sign, and has written nothing yet.
        claimed = tables.exists(f"{s3_uri}/.lease") and (renews or not far)
        finished = tables.exists(f"{s3_uri}/manifest.json")
        if claimed and not finished:
            with pytest.raises(
                RradError, match=f"process {process.pid} on .* writes it; wait for that run or end it"
            ):
                stage_of(three_parts)(Config(s3_uri))
        else:
            stage_of(three_parts)(Config(s3_uri))
        connection.send("go on")
        assert received(connection) == ""
        owner = process.pid if claimed or finished else os.getpid()
        assert set(expect_whole(s3_uri)) == {str(owner)}
        had_it.add(owner == os.getpid())
    assert had_it == {False, True}


@EACH_STOP
def test_a_run_that_stood_still_for_longer_than_it_is_waited_for_changes_nothing_of_the_run_that_took_over(
    s3_uri: str, requests: str, first: int, each: int
) -> None:
    for process, connection, _ in stopped_runs(s3_uri, Stop(STOP, requests, first, far=True), each):
        assert process.pid is not None
        stage_of(three_parts)(Config(s3_uri))
        writers = expect_whole(s3_uri)
        os.kill(process.pid, signal.SIGCONT)
        connection.send("go on")
        problem = received(connection)
        assert isinstance(problem, str)
        assert not problem or "taken it over" in problem or "was deleted" in problem
        assert expect_whole(s3_uri) == writers


def test_a_store_that_does_not_say_which_condition_failed_has_the_object_all_the_same(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PreconditionFailed, "__init__", lambda self, _: S3ClientError.__init__(self, "no"))
    assert files.create_text(f"{s3_uri}/x", "one")
    assert not files.create_text(f"{s3_uri}/x", "two")
    assert tables.read_text(f"{s3_uri}/x") == "one"


def test_a_store_where_another_one_writes_the_object_just_now_is_asked_again(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, genuine = [], S3Response.put_object

    def put_object(self: Any) -> Any:
        answers.append(self.headers.get("If-None-Match"))
        if len(answers) < 3:
            return 409, {}, "<Error><Code>ConditionalRequestConflict</Code><Message>conflict</Message></Error>"
        return genuine(self)

    monkeypatch.setattr(S3Response, "put_object", put_object)
    assert files.create_text(f"{s3_uri}/x", "one")
    assert answers == ["*"] * 3
    answers.append("*")
    assert not files.create_text(f"{s3_uri}/x", "two")


def test_a_store_without_such_a_request_is_written_to_by_the_plain_one(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = S3Response.put_object

    def put_object(self: Any) -> Any:
        if self.headers.get("If-None-Match"):
            return 501, {}, "<Error><Code>NotImplemented</Code><Message>no</Message></Error>"
        return genuine(self)

    monkeypatch.setattr(S3Response, "put_object", put_object)
    assert files.create_text(f"{s3_uri}/x", "one")
    assert tables.read_text(f"{s3_uri}/x") == "one"
