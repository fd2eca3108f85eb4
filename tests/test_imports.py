"""Imports point one way: stdlib files <- torch files <- stages <- cli <- jobs; Ray stays in stages."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import PATIENCE_S, ROOT

STDLIB_FILES = ("errors", "rows", "config", "prompts", "answers", "engine", "ledger", "progress", "stream")
STDLIB_FILES += ("experiment", "versions", "batcher")
LEARNERS = ("losses", "first", "rankers", "terms", "generation", "sharding", "fit", "ranking", "causal", "labeller")
LEARNERS += ("adapters", "tuning", "kernels", "packed", "backends")
TORCH_FILES = (*STDLIB_FILES, *LEARNERS, "metrics", "targets", "teacher", "quality", "plan")
STATISTICS = ("traffic", "significance", "online", "users")
WRITERS = ("tables", "settings", "formats", "models", "shards", "status", "track")
READ_AND_WRITE = (*WRITERS, "given", "clicks", "exports", "wire", "report", "drawing", "page", "docstrings", "pydocs")
READ_AND_WRITE += ("events", "online_page", "journal", "keys", "winners", "cache", "rendering", "lexical", "search")
# What stages share, in their folder because it imports ray.
HELPERS = {"cluster", "dense", "collect", "engines", "feed", "trainer", "endpoint"}
BLOCKED = {"ray", "vllm", "pyarrow", "fsspec", "s3fs", "omegaconf", "typer"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Full names of everything that a file imports, also inside functions; `from a import b` gives `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def packages(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def own(names: set[str]) -> set[str]:
    """The modules of this package among imported names: `rrad_ray.errors.RradError` -> `errors`."""
    found = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == "rrad_ray" and len(parts) > 1:
            depth = 3 if parts[1] == "stages" else 2
            found.add(".".join(parts[1:depth]))
    return found


MODULES = {module_name(path): imported(path) for path in sorted((ROOT / "rrad_ray").rglob("*.py"))}
STAGES = {name.rpartition(".")[2] for name in MODULES if name.startswith("rrad_ray.stages.")}


def test_the_files_that_these_rules_speak_of_exist() -> None:
    assert {f"rrad_ray.{name}" for name in TORCH_FILES} <= set(MODULES)
    assert HELPERS <= STAGES
    assert "ray" in packages(MODULES["rrad_ray.stages.cluster"])
    assert own(MODULES["rrad_ray.stages.train"]) >= {"losses", "tables", "stages.trainer"}


@pytest.mark.parametrize("name", STDLIB_FILES)
def test_a_stdlib_file_imports_the_standard_library_and_its_like_only(name: str) -> None:
    found = MODULES[f"rrad_ray.{name}"]
    assert packages(found) <= {*sys.stdlib_module_names, "rrad_ray"}
    assert own(found) <= set(STDLIB_FILES)


@pytest.mark.parametrize("name", TORCH_FILES)
def test_a_torch_file_runs_where_only_torch_transformers_and_numpy_are(name: str) -> None:
    found = MODULES[f"rrad_ray.{name}"]
    allowed = {"torch", "transformers", "tokenizers", "sentence_transformers", "peft", "numpy", "scipy", "rrad_ray"}
    chosen = {"openvino", "onnxruntime"} if name == "backends" else set()  # within a function: where a config says so
    assert packages(found) <= {*sys.stdlib_module_names, *allowed, *chosen}
    assert own(found) <= set(TORCH_FILES)


@pytest.mark.parametrize("name", STATISTICS)
def test_a_file_of_statistics_imports_arrays_and_statistics_only(name: str) -> None:
    found = MODULES[f"rrad_ray.{name}"]
    assert packages(found) <= {*sys.stdlib_module_names, "numpy", "scipy", "statsmodels", "rrad_ray"}
    assert own(found) <= {*STDLIB_FILES, *STATISTICS}


@pytest.mark.parametrize("name", READ_AND_WRITE)
def test_a_file_that_reads_and_writes_knows_neither_torch_files_nor_stages(name: str) -> None:
    assert own(MODULES[f"rrad_ray.{name}"]) <= {*STDLIB_FILES, *READ_AND_WRITE}


def test_only_stages_import_ray() -> None:
    users = {name for name, found in MODULES.items() if "ray" in packages(found)}
    assert users
    assert all(name.startswith("rrad_ray.stages.") for name in users), users


@pytest.mark.parametrize("name", sorted(STAGES))
def test_stages_do_not_import_each_other_nor_the_command_line(name: str) -> None:
    found = own(MODULES[f"rrad_ray.stages.{name}"])
    others = {module.removeprefix("stages.") for module in found if module.startswith("stages.")}
    assert others <= HELPERS - {name}
    assert "cli" not in found


def test_nobody_but_cli_reaches_into_stages_and_nobody_but_jobs_into_cli() -> None:
    for name, found in MODULES.items():
        if not name.startswith("rrad_ray.stages"):
            assert not {module for module in own(found) if module.startswith("stages")}, name
        assert "cli" not in own(found), name
    jobs = sorted((ROOT / "jobs").glob("*.py"))
    assert jobs
    for path in jobs:
        assert imported(path) == {"rrad_ray.cli.main"}, path


def test_losses_rankers_and_fit_are_imported_and_used_without_ray_vllm_and_pyarrow() -> None:
    program = f"""
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        # Absent as on a machine without them: transformers may ask, our files must not need them.
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

sys.meta_path.insert(0, Block())
try:
    import pyarrow
except ModuleNotFoundError:
    print("blocked")
import torch
from rrad_ray import losses, rankers, fit, ranking, teacher, tuning
from rrad_ray.config import TrainConfig
loss = losses.ranknet(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool))
print(f"{{float(loss):.4f}}", fit.Worker().device, rankers.dtype_of("float32"))
print(sorted(name for name in sys.modules if name.partition(".")[0] in {BLOCKED!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["blocked", "0.6931 cpu torch.float32", "[]"]
