"""Of runs with one output one writes it, in a process, on a machine, on several; a dead one's work goes on."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rrad_ray import tables
from rrad_ray.errors import RradError
from rrad_ray.rows import Candidates
from rrad_ray.tables import files, leases
from tests.commands import PATIENCE_S, ROOT
from tests.fixtures import row_of

LEASE = ".lease/00001.json"


@dataclasses.dataclass(frozen=True)
class Config:
    output: str
    input: str = ""
    kind: str = "borda"


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place: a folder that does not exist yet, and one on S3."""
    return str(tmp_path / "table") if request.param == "local" else request.getfixturevalue("s3_uri")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that a test has."""
    for name, seconds in (("RENEW_S", 0.1), ("LEASE_S", 1.0), ("LOOK_S", 0.1)):
        monkeypatch.setattr(leases, name, seconds)


def stage_of(body: Callable[[Config, tables.Output], None]) -> tables.Stage[Config]:
    """A stage without inputs."""
    return tables.stage("label", Candidates, lambda cfg: {})(body)


def one_row(cfg: Config, out: tables.Output) -> None:
    """Write one row that names the config."""
    out.write_part(tables.part_name(0), [row_of(cfg.kind, ["text"])])
    out.commit(rows=1)


def written_by(uri: str) -> list[str]:
    return [row["query_id"] for row in tables.read(uri, Candidates)]


def holder(**changes: Any) -> dict[str, Any]:
    """The lease of a run on another machine."""
    facts = {
        "stage": "label",
        "host": "far",
        "machine": "far 1",
        "pid": 7,
        "process": "9",
        "id": "x",
        "since": "noon",
    }
    return {**facts, "renewed": 0, **changes}


def leave(uri: str, **changes: Any) -> None:
    tables.write_json(tables.join(uri, LEASE), holder(**changes))


def test_a_second_run_is_refused_with_who_and_since_when_while_the_first_one_writes(uri: str) -> None:
    refused: list[RradError] = []

    def body(cfg: Config, out: tables.Output) -> None:
        for kind in ("borda", "copeland"):
            with pytest.raises(RradError) as caught:
                stage_of(one_row)(Config(uri, kind=kind))
            refused.append(caught.value)
        one_row(cfg, out)

    stage_of(body)(Config(uri))
    for error in refused:
        assert (error.stage, error.place) == ("label", uri)
        assert "process" in error.problem
        assert "since 20" in error.problem
        assert error.remedy == "wait for that run or end it, or choose a new output"
    assert written_by(uri) == ["borda"]
    assert not tables.exists(tables.join(uri, ".lease"))


def test_of_many_runs_that_start_at_once_one_writes_and_the_others_are_refused(uri: str) -> None:
    gate, ends, refused = threading.Barrier(6), list[str](), list[str]()

    def body(cfg: Config, out: tables.Output) -> None:
        end = time.monotonic() + PATIENCE_S
        while len(refused) < 5 and time.monotonic() < end:
            time.sleep(0.05)
        one_row(cfg, out)

    def run(kind: str) -> None:
        gate.wait()
        try:
            stage_of(body)(Config(uri, kind=kind))
            ends.append(kind)
        except RradError as error:
            refused.append(error.problem)

    threads = [threading.Thread(target=run, args=(f"run{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written_by(uri) == ends
    assert len(refused) == 5
    assert all(problem.endswith("writes it") for problem in refused)


def test_a_killed_run_goes_on_at_once_and_its_parts_are_kept(uri: str) -> None:
    script = f"""
import time
from tests.fixtures import row_of
from tests.tables.test_leases import Config, stage_of

def body(cfg, out):
    out.write_part("part-00001.parquet", [row_of("before", ["text"])])
    print("written", flush=True)
    time.sleep(600)

stage_of(body)(Config({uri!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    while "written" not in process.stdout.readline():
        assert process.poll() is None
    with pytest.raises(RradError, match=f"process {process.pid} on"):
        stage_of(one_row)(Config(uri))
    process.kill()  # and nobody has asked for its end yet: the process stays in the system's list
    end = time.monotonic() + PATIENCE_S
    while leases.process_mark(process.pid) is not None and time.monotonic() < end:
        time.sleep(0.01)
    began = time.monotonic()
    stage_of(one_row)(Config(uri))
    assert time.monotonic() - began < leases.LEASE_S / 2
    process.wait()
    assert written_by(uri) == ["borda", "before"]


def test_a_run_that_failed_before_it_wrote_a_part_binds_nobody(uri: str) -> None:
    def body(cfg: Config, out: tables.Output) -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        stage_of(body)(Config(uri))
    stage_of(one_row)(Config(uri, kind="copeland"))
    assert written_by(uri) == ["copeland"]


def test_another_process_with_the_number_of_the_dead_one_keeps_nobody_out(uri: str) -> None:
    leave(uri, machine=leases.machine_mark(), pid=1, process="of long ago")
    stage_of(one_row)(Config(uri))
    assert written_by(uri) == ["borda"]


@pytest.mark.usefixtures("quick")
def test_a_run_of_another_machine_that_gives_no_sign_is_taken_over(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(uri)
    began = time.monotonic()
    stage_of(one_row)(Config(uri))
    assert time.monotonic() - began >= leases.LEASE_S
    assert "label, process 7 on far since noon, had this output: waiting 1 s" in capsys.readouterr().out
    assert written_by(uri) == ["borda"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("number", [1, 2], ids=["renewed", "another run"])
def test_a_run_of_another_machine_that_gives_a_sign_keeps_others_out(
    uri: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(uri)
    content = holder(renewed=1, id="y" if number == 2 else "x")

    def sign(waiting: str) -> None:
        tables.write_json(tables.join(uri, f".lease/{number:05d}.json"), content)

    monkeypatch.setattr(leases, "say", sign)  # the sign comes once the other run has begun to wait for it
    with pytest.raises(RradError, match="label, process 7 on far since noon, writes it; wait for that run or end it"):
        stage_of(one_row)(Config(uri))
    assert not tables.exists(tables.join(uri, "started.json"))


@pytest.mark.usefixtures("quick")
def test_a_run_writes_its_lease_anew(uri: str) -> None:
    seen: list[int] = []

    def body(cfg: Config, out: tables.Output) -> None:
        end = time.monotonic() + PATIENCE_S
        while len(seen) < 3 and time.monotonic() < end:
            now = json.loads(tables.read_text(tables.join(uri, LEASE)))["renewed"]
            seen.extend([now] if now not in seen else [])
            time.sleep(0.05)
        one_row(cfg, out)

    stage_of(body)(Config(uri))
    assert seen == sorted(seen)
    assert len(seen) == 3


def overtake(uri: str) -> None:
    tables.write_json(tables.join(uri, ".lease/00002.json"), holder())


def delete(uri: str) -> None:
    tables.remove(tables.join(uri, ".lease"))


def test_an_actors_copy_of_an_output_writes_parts_and_sees_the_loss(uri: str) -> None:
    def body(cfg: Config, out: tables.Output) -> None:
        copy = pickle.loads(pickle.dumps(out))
        copy.write_part(tables.part_name(0), [row_of("copy", ["text"])])
        out.commit()
        overtake(uri)
        with pytest.raises(RradError, match="has taken it over"):
            copy.commit()

    stage_of(body)(Config(uri))
    assert written_by(uri) == ["copy"]


@pytest.mark.parametrize(
    ("loss", "says"), [(overtake, "process 7 on far since noon, has taken it over"), (delete, "it was deleted")]
)
def test_a_run_that_has_lost_its_output_does_not_finish_it(uri: str, loss: Callable[[str], None], says: str) -> None:
    def body(cfg: Config, out: tables.Output) -> None:
        loss(uri)
        one_row(cfg, out)

    with pytest.raises(RradError, match=f"{says}.*; run again, one run at a time"):
        stage_of(body)(Config(uri))
    assert not tables.exists(tables.join(uri, "manifest.json"))
    assert tables.exists(tables.join(uri, ".lease/00002.json")) == (loss is overtake), "the other run's lease stays"


@pytest.mark.usefixtures("quick")
def test_a_run_that_has_lost_its_output_writes_no_more_parts(uri: str) -> None:
    def body(cfg: Config, out: tables.Output) -> None:
        overtake(uri)
        end = time.monotonic() + PATIENCE_S
        while out.lease and not out.lease.lost and time.monotonic() < end:
            time.sleep(0.05)
        with pytest.raises(RradError, match="has taken it over"):
            out.write_part(tables.part_name(0), [])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage_of(body)(Config(uri))
    assert tables.part_names(uri) == []


def test_a_finished_output_is_not_touched(uri: str) -> None:
    stage_of(one_row)(Config(uri))
    before = files.listed(uri)
    stage_of(one_row)(Config(uri))
    with pytest.raises(RradError, match="holds the output of another config"):
        stage_of(one_row)(Config(uri, kind="copeland"))
    assert files.listed(uri).keys() == before.keys()
    assert not any(leases.LEASES in name for name in before)


@pytest.mark.parametrize("name", ["00001 (conflicted copy).json", "._00001.json", "1.json.json", "x.json"])
def test_a_file_beside_the_leases_that_is_called_otherwise_is_none(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "table"
    tables.write_text(f"{folder}/.lease/{name}", "{}")
    with leases.Lease(str(folder), "label") as lease:
        assert lease.number == 1


@pytest.mark.parametrize(
    "content",
    ['"x"', "[1]", "{}", '{"pid": "7"}', *({"pid": pid} for pid in ("7", 2**40, None, -1)), {"process": ...}],
)
def test_a_lease_without_the_facts_of_one_is_waited_for_as_one_that_cannot_be_read(
    tmp_path: Path, quick: None, content: Any
) -> None:
    folder = tmp_path / "table"
    if isinstance(content, dict):
        whole = leases.Lease(str(folder), "label").facts | content
        content = json.dumps({key: value for key, value in whole.items() if value is not ...})
    tables.write_text(f"{folder}/{LEASE}", content)
    with leases.Lease(str(folder), "label") as lease:
        assert lease.number == 2


def test_a_folder_that_stands_where_a_lease_is_to_be_written_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    (tmp_path / LEASE).mkdir(parents=True)
    with pytest.raises(RradError, match=r"00001\.json: cannot be created, and is no file; delete it"):
        leases.Lease(str(tmp_path), "label").__enter__()


def test_a_run_that_is_killed_at_any_step_keeps_nobody_out_and_loses_no_part_that_it_had(tmp_path: Path) -> None:
    """`kill -9` before each time that the run opens, makes, renames or deletes a file or a folder of its output."""
    steps, parts_had = 0, set[int]()
    uri = str(tmp_path / "table")

    def run_until(step: int) -> None:
        """Run the stage in this process, which ends before the step of this number."""
        count = 0

        def audit(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") and uri in str(arguments[0]):
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(audit)
        stage_of(one_row)(Config(uri))

    while True:
        steps += 1
        process = multiprocessing.get_context("fork").Process(target=run_until, args=(steps,))
        process.start()
        process.join(PATIENCE_S)
        before = tables.part_names(uri)
        stage_of(one_row)(Config(uri))
        assert written_by(uri) == ["borda"]
        assert set(before) <= set(tables.part_names(uri))
        parts_had.add(len(before))
        tables.remove(uri)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert steps > 15
    assert parts_had == {0, 1}
