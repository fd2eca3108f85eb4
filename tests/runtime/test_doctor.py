"""`rrad doctor` as a user runs it: without a cluster, with one that is not there, and on a cluster's nodes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from rrad_ray.runtime import doctor as report
from rrad_ray.runtime import doctor_machine as machine
from rrad_ray.runtime.doctor_check import Check
from tests.commands import PATIENCE_S, ROOT, RRAD
from tests.heads import Head, free_port


def ask_doctor(*arguments: str, env: Mapping[str, str]) -> tuple[int, list[dict[str, Any]]]:
    """Return the exit code and the checks of `rrad doctor ARGUMENTS --json`."""
    command = [*RRAD, "doctor", *arguments, "--json"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    return done.returncode, json.loads(done.stdout or "null")


def test_without_a_cluster_none_is_asked_or_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(machine, "check_vllm", lambda model: Check("vLLM", "ok", model))
    started = mock.Mock()
    monkeypatch.setattr("ray.init", started)
    checks = list(report.examine(report.Questions([str(tmp_path)], engine="m", port=free_port())))
    assert {check.node for check in checks} == {""}
    assert Check("vLLM", "ok", "m") in checks
    assert [check.subject for check in checks][-1] == "Ray"
    assert str(tmp_path) in {check.subject for check in checks}
    assert not started.called


def test_a_cluster_that_is_not_there_fails_within_seconds_and_the_exit_code_says_so(tmp_path: Path) -> None:
    (tmp_path / "vllm.py").write_text("__version__ = '0'")  # vLLM's own takes long to import
    env = {**os.environ, "RAY_ADDRESS": f"127.0.0.1:{free_port()}", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    code, checks = ask_doctor(env=env)
    assert code == 1
    assert [check["subject"] for check in checks if check["state"] == "failed"] == ["Ray"]
    assert "no cluster can be joined there" in checks[-1]["finding"]
    assert "RAY_ADDRESS" in checks[-1]["remedy"]


@pytest.mark.ray
def test_every_node_of_a_cluster_is_looked_at(head: Head, tmp_path: Path) -> None:
    (tmp_path / "vllm.py").write_text("__version__ = '0'")  # here, but not on the node
    code, checks = ask_doctor(str(tmp_path), env={**head.env, "PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert code == 0, [check for check in checks if check["state"] == "failed"]
    [ray] = [check for check in checks if check["subject"] == "Ray"]
    assert ray["finding"].endswith(f"at {head.address}: 1 node(s), 4 CPUs, 0 GPUs")
    here, there = ({check["subject"] for check in checks if bool(check["node"]) is there} for there in (False, True))
    assert {"vLLM", "GPUs", "clock", str(tmp_path)} <= there
    assert there - {"clock"} < here
    [clock] = [check for check in checks if check["subject"] == "clock"]
    assert clock["state"] == "ok"
