"""`rrad status`: what is done, what runs, what was killed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rrad_ray import tables
from rrad_ray.cli import app
from rrad_ray.config import SelectConfig
from rrad_ray.errors import RradError
from rrad_ray.tables import leases, status


def started(folder: Path, name: str) -> tables.Output:
    return tables.Output("judge", SelectConfig(input="", output=f"{folder}/{name}"), None, {})


def told(out: tables.Output, **changes: object) -> None:
    out.write_progress(
        {"unit": "prompts", "done": 40, "total": 100, "rate": 2.0, "left_s": 30.0, "missing_share": 0.125}
    )
    place = Path(out.uri) / tables.PROGRESS
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))


def text(uri: Path) -> str:
    return "\n".join(status.status_lines(status.of_run(str(uri))))


def test_a_pipelines_folder_shows_every_output_and_a_stages_output_itself(tmp_path: Path) -> None:
    done = started(tmp_path, "labels")
    done.commit(rows=7)
    told(started(tmp_path, "judgments"))
    (tmp_path / "report.html").write_text("")
    shown = text(tmp_path)
    assert "labels     judge     done, 0 s, rows 7" in shown
    assert "running, 40 of 100 prompts (40 %), 2.0/s" in shown
    assert "missing_share 0.125" in shown
    assert text(tmp_path / "labels").startswith("labels  judge     done")


def test_a_record_of_progress_in_a_bucket_does_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told(started(tmp_path, "a"), note="\x1b[2J")
    app(["status", str(tmp_path)], standalone_mode=False)
    out = capsys.readouterr().out
    assert "note \\x1b[2J" in out
    assert "\x1b" not in out


def test_a_killed_run_is_told_from_one_that_runs(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    told(started(tmp_path, "a"), pid=process.pid)
    assert "stopped, 40 of 100" in text(tmp_path)
    assert "run the same command again" in text(tmp_path)
    told(started(tmp_path, "a"), pid=os.getpid())
    assert "running, 40 of 100" in text(tmp_path)


def test_a_run_on_another_machine_is_taken_for_dead_after_a_silence(tmp_path: Path) -> None:
    out = started(tmp_path, "a")
    told(out, host=f"not-{socket.gethostname()}", pid=1)
    assert "running" in text(tmp_path)
    told(out, host=f"not-{socket.gethostname()}", pid=1, updated=time.time() - 2 * status.SILENT_S)
    assert "stopped" in text(tmp_path)


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_run_on_a_machine_with_another_clock_lives_while_it_renews_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    out = started(tmp_path, "a")
    told(out, host=f"not-{socket.gethostname()}", pid=1, updated=time.time() + 3600 * hours)
    monkeypatch.setattr(status, "WATCH_EVERY_S", 0.01)
    monkeypatch.setattr(leases, "RENEW_S", 0.01)
    with leases.Lease(out.uri, "judge") as lease:
        assert "running, 40 of 100" in text(tmp_path)
        assert "told -" not in text(tmp_path)
        lease.over.set()  # as if it were killed: nobody renews it
        for thread in threading.enumerate():
            if thread.name == f"lease of {out.uri}":
                thread.join()
        monkeypatch.setattr(status, "WATCHED_S", 0.1)
        assert "stopped, 40 of 100" in text(tmp_path)
    assert "stopped" in text(tmp_path)


def test_a_place_without_any_output_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RradError, match="no output of a stage stands there"):
        status.of_run(str(tmp_path))
    (tmp_path / "manifest.json").write_text('{"name": "of another program"}')
    with pytest.raises(RradError, match="no output of a stage stands there"):
        status.of_run(str(tmp_path))
    (tmp_path / "manifest.json").unlink()
    for record in ("null", "[]", "{}", '{"stage": "a", "config": [], "inputs": {}}'):
        (tmp_path / "started.json").write_text(record)
        with pytest.raises(RradError, match=r"started.json: is no record of a"):
            status.of_run(str(tmp_path))
    with pytest.raises(RradError, match=r"^status: .*no such file; check that the place exists"):
        status.of_run(f"{tmp_path}/nothing")


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"host": "x"}',
        '{"host": "x", "pid": "1", "updated": 1}',
        '{"host": 1, "pid": 1, "updated": 1}',
        '{"host": "x", "pid": 1, "updated": 1, "total": null, "done": 1, "rate": 1}',
        "3",
        '"running"',
        '{"host": "x", "pid": 1000000000000000000000000000000, "updated": 1}',
        '{"host": "x", "pid": 1e308, "updated": 1}',
        '{"host": "x", "pid": 1, "updated": 1, "generated_tokens_per_s": "fast"}',
    ],
)
def test_a_record_of_progress_that_is_none_is_named_and_may_be_deleted(tmp_path: Path, content: str) -> None:
    (Path(started(tmp_path, "a").uri) / tables.PROGRESS).write_text(content)
    message = r"status: .*progress\.json: is no record of progress \(.+\); delete the file"
    with pytest.raises(RradError, match=message):
        status.of_run(str(tmp_path))
