"""On the terminal of a run our own lines stand alone; errors still come through."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from pathlib import Path

import pytest
import ray

from rrad_ray.runtime import cluster
from tests import tiny
from tests.commands import PATIENCE_S, ROOT, RRAD

pytestmark = pytest.mark.ray


def test_a_stage_with_ray_prints_our_lines_only(tmp_path: Path) -> None:
    documents = [json.dumps({"_id": f"d{number}", "title": "", "text": f"w{number} w1"}) for number in range(6)]
    data = tmp_path / "data"
    data.mkdir()
    (data / "corpus.jsonl").write_text("\n".join(documents))
    (data / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "w1"}))
    model = tiny.save(tmp_path / "model", "Bert", "Model")
    arguments = ["retrieve", "configs/retrieve.yaml", f"data={data}", f"output={tmp_path}/out", f"model={model}"]
    env = {name: value for name, value in os.environ.items() if name not in cluster.QUIET}
    env["RAY_local_fs_capacity_threshold"] = "1"  # Ray is right to warn of a full disk, which may be this one
    run = subprocess.run(
        [*RRAD, *arguments], cwd=ROOT, capture_output=True, text=True, env=env, timeout=PATIENCE_S, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    *lines, uri = run.stdout.splitlines()
    assert uri == f"{tmp_path}/out"
    assert all(line.startswith("[retrieve] ") for line in lines), run.stdout


def test_a_library_that_initializes_ray_again_stays_quiet_and_errors_are_still_logged() -> None:
    cluster.start_ray()
    ray.init(ignore_reinit_error=True)  # as ray.data.llm does; it sets the level of the logger `ray` to INFO
    from ray.llm._internal.common.utils import download_utils  # its loggers set themselves up, unless `ray.llm` is

    for logger in (download_utils.logger, *(logging.getLogger(f"{name}.x") for name in cluster.QUIET_LOGGERS)):
        assert not logger.isEnabledFor(logging.WARNING), logger.name
        assert logger.isEnabledFor(logging.ERROR)
        assert logger.propagate
