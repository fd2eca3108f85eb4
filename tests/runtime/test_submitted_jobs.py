"""Jobs that are submitted to a cluster: labelling that is killed or stopped amid its work goes on when it is
submitted again, and asks for no answer twice that was stored.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from rrad_ray import tables
from rrad_ray.rows import Answer, JudgeOutput
from tests.commands import PATIENCE_S, ROOT
from tests.heads import Head, started
from tests.runtime.test_engines import Endpoint, folder, row

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
QUERIES, SHARD = 200, 10


class Slow(Endpoint):
    """A labeller that takes its time, so that a job can be killed amid its work."""

    def answer(self, content: str) -> tuple[int, dict[str, Any]]:
        time.sleep(0.2)
        return super().answer(content)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    options = ["--num-cpus=4", "--object-store-memory=300000000"]
    with started(options, {"PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "none"}) as head:
        yield head


@pytest.fixture
def jobs(head: Head, monkeypatch: pytest.MonkeyPatch) -> JobSubmissionClient:
    """A client of the head, which answers a while after its port listens."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    return retried(lambda: JobSubmissionClient(head.dashboard))


def retried(attempt: Callable[[], Any]) -> Any:
    """Return what succeeds in the end."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return attempt()
        except (ConnectionError, RuntimeError):
            assert time.monotonic() < until, "no answer of the head"
            time.sleep(0.5)


def wait_for(holds: Callable[[], object], jobs: JobSubmissionClient, job: str) -> None:
    """Wait until a condition holds; fail if the job ends before."""
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until, "it took too long"
        assert not jobs.get_job_status(job).is_terminal(), jobs.get_job_logs(job)[-3000:]
        time.sleep(0.1)


def end_of(jobs: JobSubmissionClient, job: str) -> JobStatus:
    """Wait for a job's end and return how it ended."""
    until = time.monotonic() + PATIENCE_S
    while not (status := jobs.get_job_status(job)).is_terminal():
        assert time.monotonic() < until, "it did not end"
        time.sleep(0.2)
    return status


def killed(jobs: JobSubmissionClient, job: str) -> JobStatus:
    """kill -9 of a job's driver, as when its node goes or its memory is gone; how the job ended."""
    driver = jobs.get_job_info(job).driver_info
    assert driver is not None
    os.kill(int(driver.pid), signal.SIGKILL)
    return end_of(jobs, job)


def stopped(jobs: JobSubmissionClient, job: str) -> JobStatus:
    """`ray job stop`; how the job ended."""
    assert jobs.stop_job(job)
    return end_of(jobs, job)


def stored(output: str) -> list[str]:
    """Return the queries whose answer is in the parts, or in the journal of shards that have no part yet."""
    journal, parts = f"{output}/journal", tables.part_names(output)
    answers = (answer for name in tables.part_names(journal) for answer in tables.read_part(journal, name, Answer))
    waiting = {(answer["part"], answer["row"]) for answer in answers if answer["part"] not in parts}
    numbers = [int(part[len("part-") : -len(".parquet")]) * SHARD + row for part, row in waiting]
    done = [item["query_id"] for part in parts for item in tables.read_part(output, part, JudgeOutput)]
    return [*done, *(f"q{number}" for number in numbers)]


@pytest.mark.parametrize(("end", "status"), [(killed, JobStatus.FAILED), (stopped, JobStatus.STOPPED)])
def test_a_job_that_ended_amid_its_work_goes_on_when_it_is_submitted_again(
    head: Head,
    jobs: JobSubmissionClient,
    tmp_path: Path,
    end: Callable[[JobSubmissionClient, str], JobStatus],
    status: JobStatus,
) -> None:
    labeller, output = Slow(), f"{tmp_path}/judged"
    keys = [f"input={folder(tmp_path, [row(number) for number in range(QUERIES)])}", f"output={output}"]
    keys += [f"openai.url={labeller.url}", "openai.concurrency=4", "model=m", f"shard_queries={SHARD}"]
    keys += ["batch_size=4", "durable_s=1", "gate.enabled=false"]
    command = " ".join([sys.executable, "jobs/judge.py", "configs/judge-openai.yaml", *keys])
    try:
        first = retried(lambda: jobs.submit_job(entrypoint=command))
        wait_for(lambda: len(tables.part_names(output)) >= 3, jobs, first)
        assert end(jobs, first) == status
        before = stored(output)
        assert 3 * SHARD <= len(before) < QUERIES, "it did not end in the middle"
        again = jobs.submit_job(entrypoint=command)
        assert end_of(jobs, again) == JobStatus.SUCCEEDED, jobs.get_job_logs(again)[-3000:]
    finally:
        labeller.server.shutdown()
    answered = [item["query_id"] for item in tables.read(output, JudgeOutput)]
    assert answered == [f"q{number}" for number in range(QUERIES)], "each query once"
    assert "goes on: " in jobs.get_job_logs(again)
    asked = {f"q{number}": labeller.calls_of(f"number {number}.") for number in range(QUERIES)}
    assert {query: asked[query] for query in before if asked[query] != 1} == {}, "stored, and asked for again"
    assert set(asked.values()) <= {1, 2}
    print(f"{len(before)} of {QUERIES} were stored; {sum(asked.values()) - QUERIES} were asked twice")
