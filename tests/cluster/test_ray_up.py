"""`ray up` takes our files: Ray's own loader fills in its defaults and validates them, and starts our Ray only."""

from __future__ import annotations

import re
import shlex
import string
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from rrad_ray.config import JudgeConfig, load
from tests.commands import ROOT

FILES = sorted((ROOT / "cluster" / "ray-up").iterdir())


def prepared(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return a file as `ray up` uses it."""
    monkeypatch.setenv("RAY_DISABLE_CLUSTER_CONFIG_CACHE", "1")
    content = yaml.safe_load((ROOT / "cluster" / "ray-up" / name).read_text(encoding="utf-8"))
    config: dict[str, Any] = prepare_config(content)
    validate_config(config)
    return config


@pytest.mark.parametrize("name", [path.name for path in FILES])
def test_rays_loader_takes_a_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = prepared(name, monkeypatch)
    assert not any("pip install" in command and "ray-wheels" in command for command in config["setup_commands"])
    starts = [config[key][-1] for key in ("head_start_ray_commands", "worker_start_ray_commands")]
    assert "--head" in starts[0]
    assert "--address=$RAY_HEAD_IP:6379" in starts[1]


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_workers_of_a_cloud_come_from_zero_and_the_head_does_no_work(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = prepared(name, monkeypatch)
    types = config["available_node_types"]
    assert (types["gpu"]["min_workers"], types["gpu"]["max_workers"]) == (0, config["max_workers"])
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert "--num-cpus=0" in config["head_start_ray_commands"][-1]


def test_a_misspelt_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = prepared("aws.yaml", monkeypatch)
    config["idle_timeout_minute"] = 5
    with pytest.raises(Exception, match="idle_timeout_minute"):
        validate_config(config)


def test_skypilot_runs_commands_of_ours_with_variables_that_it_declares() -> None:
    task = yaml.safe_load((ROOT / "cluster" / "skypilot.yaml").read_text(encoding="utf-8"))
    known = {"name", "num_nodes", "resources", "envs", "workdir", "setup", "run"}
    assert task.keys() == known
    assert set(re.findall(r"\$(\w+)", task["run"])) == task["envs"].keys()
    assert all(shlex.split(line)[0] == "rrad" for line in task["run"].splitlines())


def test_skypilots_jobs_label_slices_of_one_input_into_one_table() -> None:
    task = yaml.safe_load((ROOT / "cluster" / "skypilot.yaml").read_text(encoding="utf-8"))
    runs = []
    for variables in (task["envs"], {**task["envs"], "SLICE": "4/4"}):
        line = string.Template(task["run"].splitlines()[-1]).substitute(variables)
        _, judge, config, *overrides = shlex.split(line)
        assert judge == "judge"
        runs.append(load.load_config(JudgeConfig, config, overrides))
    assert [run.slice for run in runs] == ["1/4", "4/4"]
    assert len({(run.input, run.output) for run in runs}) == 1
