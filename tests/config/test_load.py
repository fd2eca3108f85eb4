"""Configs: what YAML and overrides give, and which error names the file, the key and the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from rrad_ray import cli
from rrad_ray.config import JudgeConfig, RetrieveConfig, TrainConfig, load
from rrad_ray.config.load import Step
from rrad_ray.errors import RradError

PLACES = "input: a\noutput: b\n"


def write(folder: Path, text: str, name: str = "c.yaml") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


# ---- one stage ----------------------------------------------------------------------------------------------


def test_values_come_from_the_override_then_the_yaml_then_the_default(tmp_path: Path) -> None:
    path = write(tmp_path, PLACES + "epochs: 7\nlr: 1.0e-3\nsplits: [train]\n")
    cfg = load.load_config(TrainConfig, path, ["lr=2e-5", "freeze_embeddings=false"])
    assert cfg == TrainConfig("a", "b", epochs=7.0, lr=2e-5, splits=("train",), freeze_embeddings=False)


def test_an_override_of_a_nested_key_leaves_its_neighbours(tmp_path: Path) -> None:
    path = write(tmp_path, PLACES + "gate: {max_p: 0.2, against: dense}\n")
    gate = load.load_config(JudgeConfig, path, ["gate.max_p=0.1", "gate.enabled=false"]).gate
    assert (gate.max_p, gate.against, gate.enabled, gate.min_queries) == (0.1, "dense", False, 30)


@pytest.mark.parametrize(
    ("yaml", "overrides", "losses"),
    [
        ("", [], {"soft_ranknet": 1.0}),
        ("losses: {point_mse: 1, margin_mse: 2}\n", [], {"point_mse": 1.0, "margin_mse": 2.0}),
        ("", ["losses.ranknet=3"], {"ranknet": 3.0}),
        ("losses: {point_mse: 1}\n", ["losses.ranknet=3"], {"point_mse": 1.0, "ranknet": 3.0}),
    ],
)
def test_a_mapping_that_is_given_stands_for_the_default_one(
    tmp_path: Path, yaml: str, overrides: list[str], losses: dict[str, float]
) -> None:
    assert load.load_config(TrainConfig, write(tmp_path, PLACES + yaml), overrides).losses == losses


def test_a_base_is_found_relative_to_its_file_through_a_chain_and_is_overruled(tmp_path: Path) -> None:
    write(tmp_path, PLACES + "epochs: 1\nlr: 1.0\nseed: 1\n", "root.yaml")
    write(tmp_path, "base: ../root.yaml\nlr: 2.0\nseed: 2\n", "mid/mid.yaml")
    path = write(tmp_path, "base: mid/mid.yaml\nseed: 3\n", "leaf.yaml")
    assert load.load_config(TrainConfig, path, ["num_workers=2"]) == TrainConfig(
        "a", "b", epochs=1, lr=2, seed=3, num_workers=2
    )


@pytest.mark.parametrize(
    ("yaml", "overrides", "named"),
    [
        (PLACES + "epoch: 3\n", [], ["epoch", "did you mean: 'epochs'"]),
        (PLACES, ["hed_lr=1"], ["hed_lr", "did you mean: 'head_lr'"]),
        (PLACES + "epochs: many\n", [], ["epochs", "many"]),
        (PLACES, ["num_workers=1.5"], ["num_workers", "1.5"]),
        (PLACES + "num_workers: null\n", [], ["num_workers", "None"]),
        (PLACES + "num_workers: {min: 3, max: 2}\n", [], ["num_workers", "{min: 1, max: 4}"]),
        (PLACES + "num_workers: {least: 1, max: 2}\n", [], ["num_workers", "least"]),
        (PLACES + "losses: {ranknet: much}\n", [], ["losses.ranknet", "much"]),
        (PLACES + "losses: 3\n", [], ["losses"]),
        (PLACES + "losses: {}\n", [], ["losses", "at least one"]),
        (PLACES + "kind: mlp\n", [], ["kind", "mlp", "encoder, decoder"]),
        (PLACES, ["docs_per_query=1"], ["docs_per_query=1"]),
        (PLACES + "model: ${nope}\n", [], ["model", "nope"]),
        ("input: a\n", [], ["output", "key=value"]),
        ("input: ???\noutput: b\n", [], ["input"]),
        ("", [], ["input, output"]),
        ("hello\n", [], ["hello"]),
        (PLACES + "input: c\n", [], ["duplicate key input"]),
        ("- 1\n", [], ["not a mapping"]),
        ("a: [1, 2\nb: }{", [], ["not YAML", "line 2"]),
        ("a:\n\t- b\n", [], ["not YAML", "line 2"]),
        ("base: c.yaml\n" + PLACES, [], ["base"]),
        ("base: gone.yaml\n" + PLACES, [], ["gone.yaml", "no such file"]),
        ("base: 3\n" + PLACES, [], ["base=3"]),
    ],
)
def test_a_wrong_config_names_the_file_the_key_and_what_was_found(
    tmp_path: Path, yaml: str, overrides: Sequence[str], named: list[str]
) -> None:
    path = write(tmp_path, yaml)
    with pytest.raises(RradError) as caught:
        load.load_config(TrainConfig, path, overrides)
    text = str(caught.value)
    assert str(tmp_path) in text
    assert all(name.lower() in text.lower() for name in named), text
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("schema", "yaml", "key"),
    [
        (JudgeConfig, "gate: {enabeld: true}\n", "gate.enabeld"),
        (JudgeConfig, "gate: {max_p: x}\n", "gate.max_p"),
        (JudgeConfig, "gate: {max_p: 3}\n", "gate.max_p=3"),
    ],
)
def test_an_error_in_a_nested_key_names_its_whole_path(tmp_path: Path, schema: type, yaml: str, key: str) -> None:
    with pytest.raises(RradError, match="config: ") as caught:
        load.load_config(schema, write(tmp_path, PLACES + yaml))
    assert key in str(caught.value)


@pytest.mark.parametrize("override", ["lr", "lr=[1", "lr=${"])
def test_an_override_that_is_no_key_and_value_is_named(tmp_path: Path, override: str) -> None:
    with pytest.raises(RradError) as caught:
        load.load_config(TrainConfig, write(tmp_path, PLACES), ["seed=1", override])
    assert caught.value.place == override


def test_a_missing_file_a_folder_and_a_binary_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name, found in (("gone.yaml", "no such file"), ("", "directory"), ("binary.yaml", "utf-8")):
        with pytest.raises(RradError) as caught:
            load.load_config(TrainConfig, str(tmp_path / name))
        assert caught.value.place == str(tmp_path / name)
        assert found in caught.value.problem


def test_a_config_that_a_program_makes_is_checked_in_the_same_way() -> None:
    assert load.build_config(RetrieveConfig, {"data": "d", "output": "o", "queries": {"dev": 3}}, "x").queries == {
        "dev": 3
    }
    with pytest.raises(RradError, match=r"here: .*queries='tset'"):
        load.build_config(RetrieveConfig, {"data": "d", "output": "o", "queries": {"tset": 3}}, "here")


# ---- pipelines ----------------------------------------------------------------------------------------------

PIPELINE = """
data: ???
out: runs/x
steps:
  retrieve: {data: "${data}", output: "${out}/candidates"}
  encoder: {stage: train, input: "${out}/labels", output: "${out}/encoder", epochs: 2}
"""


def test_a_pipeline_gives_its_steps_in_order_with_variables_filled_and_overrides_applied(tmp_path: Path) -> None:
    path = write(tmp_path, PIPELINE)
    variables, steps = load.load_pipeline(path, ["data=beir", "out=s3://b/o", "steps.encoder.epochs=5"])
    assert variables == {"data": "beir", "out": "s3://b/o"}
    assert steps == [
        Step("retrieve", "retrieve", {"data": "beir", "output": "s3://b/o/candidates"}),
        Step("encoder", "train", {"input": "s3://b/o/labels", "output": "s3://b/o/encoder", "epochs": 5}),
    ]


def test_a_pipeline_may_stand_on_a_base(tmp_path: Path) -> None:
    write(tmp_path, PIPELINE, "base.yaml")
    path = write(tmp_path, "base: base.yaml\ndata: mine\nsteps: {encoder: {epochs: 9}}\n")
    variables, steps = load.load_pipeline(path)
    assert variables["data"] == "mine"
    assert [(step.name, step.values.get("epochs")) for step in steps] == [("retrieve", None), ("encoder", 9)]


@pytest.mark.parametrize(
    ("yaml", "overrides", "named"),
    [
        (PIPELINE, [], ["data"]),
        (PIPELINE, ["data=x", "outt=y"], ["'outt'", "'out'"]),
        (PIPELINE, ["data=x", "steps.retreive.seed=1"], ["'steps.retreive'", "'steps.retrieve'"]),
        (PIPELINE, ["data=x", "zebra=1"], ["'zebra'", "known: data, out, steps"]),
        (PIPELINE, ["data=x", "steps=3"], ["steps=3"]),
        ("steps: {retrieve: {data: '${nope}'}}\n", [], ["steps.retrieve.data", "'nope'"]),
        ("steps:\n  retrieve:\n", [], ["steps.retrieve"]),
        ("steps: {retrieve: 3}\n", [], ["steps.retrieve"]),
        ("steps: [retrieve]\n", [], ["steps"]),
        (PLACES, [], ["steps"]),
    ],
)
def test_a_wrong_pipeline_names_the_file_and_the_key(
    tmp_path: Path, yaml: str, overrides: Sequence[str], named: list[str]
) -> None:
    path = write(tmp_path, yaml)
    with pytest.raises(RradError) as caught:
        load.load_pipeline(path, overrides)
    assert caught.value.place == path
    assert all(name in str(caught.value) for name in named), str(caught.value)


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        ("retreive: {data: x}", ["steps.retreive", "did you mean 'retrieve'"]),
        ("zzz: {data: x}", ["steps.zzz", "choose one of retrieve"]),
        ("retrieve: {dat: x, output: o}", ["retrieve", "'dat'", "'data'"]),
    ],
)
def test_every_step_is_checked_before_the_first_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: str, named: list[str]
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(cli, "run_stage", lambda stage, cfg: ran.append(stage))
    path = write(tmp_path, f"steps:\n  label: {{input: a, output: b}}\n  {steps}\n")
    with pytest.raises(RradError) as caught:
        cli.run_pipeline(path, [])
    assert path in str(caught.value)
    assert all(name in str(caught.value) for name in named), str(caught.value)
    assert ran == []


def test_a_pipeline_runs_its_steps_in_order_with_their_configs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, str]] = []

    def run_stage(stage: str, cfg: object) -> str:
        ran.append((stage, type(cfg).__name__))
        return stage

    monkeypatch.setattr(cli, "run_stage", run_stage)
    uris = list(cli.run_pipeline(write(tmp_path, PIPELINE), ["data=x"]).values())
    assert (uris, ran) == (["retrieve", "train"], [("retrieve", "RetrieveConfig"), ("train", "TrainConfig")])


def test_the_command_prints_one_line_and_exits_with_2_for_a_users_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, PLACES + "epoch: 3\n")
    monkeypatch.setattr("sys.argv", ["rrad", "train", path])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    told = capsys.readouterr().err
    assert caught.value.code == 2
    assert told.startswith(f"error: config: {path}: ")
    assert told.count("\n") == 1
