"""Configs: what YAML and overrides give, and which error names the file, the key and the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yaml import safe_load

from rrad_ray import cli, tables
from rrad_ray.config import (
    EvaluateConfig,
    JudgeConfig,
    LabelConfig,
    RetrieveConfig,
    ServeConfig,
    TrainConfig,
    load,
    texts,
)
from rrad_ray.config.load import Step
from rrad_ray.errors import InvalidInput, RradError

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


def test_a_base_on_an_absolute_path_or_on_s3_is_itself(
    tmp_path: Path, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path, PLACES + "lr: 2.0\n", "elsewhere/root.yaml")
    tables.write_text(f"{s3_uri}/root.yaml", PLACES + "lr: 2.0\n")
    tables.write_text(f"{s3_uri}/leaf.yaml", f"base: {root}\nseed: 3\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for base in (root, f"{s3_uri}/root.yaml", "~/elsewhere/root.yaml"):
        path = write(tmp_path, f"base: {base}\nseed: 3\n", "leaf.yaml")
        cfg = load.load_config(TrainConfig, path)
        assert (cfg.lr, cfg.seed) == (2.0, 3)
    assert load.load_config(TrainConfig, f"{s3_uri}/leaf.yaml").lr == 2.0
    with pytest.raises(RradError, match=r"https://.* is no place that rrad-ray reads"):
        load.load_config(TrainConfig, write(tmp_path, "base: https://x.org/a.yaml\n", "leaf.yaml"))


def test_a_missing_file_a_folder_and_a_binary_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name, found in (("gone.yaml", "no such file"), ("", "is a folder"), ("binary.yaml", "UTF-8")):
        with pytest.raises(RradError) as caught:
            load.load_config(TrainConfig, str(tmp_path / name))
        assert caught.value.place.removesuffix(":1") == str(tmp_path / name)
        assert found in caught.value.problem


def test_a_config_that_a_program_makes_is_checked_in_the_same_way() -> None:
    assert load.build_config(RetrieveConfig, {"data": "d", "output": "o", "queries": {"dev": 3}}, "x").queries == {
        "dev": 3
    }
    with pytest.raises(RradError, match=r"here: .*queries='tset'"):
        load.build_config(RetrieveConfig, {"data": "d", "output": "o", "queries": {"tset": 3}}, "here")


# ---- texts --------------------------------------------------------------------------------------------------

TYPED = ["2024_10_01", "012", "12:30", "1.10", "yes", "null", "~", "", " ", "runs/exp #2", "1e5", "0x10", "[draft]"]
TYPED += [
    "{a: b}",
    "a: b: c",
    '"quoted"',
    "it's",
    "a=b",
    "true",
    "2024-10-01",
    "{unclosed",
    "* star",
    "&x",
    "!t",
    "- 1",
]


@pytest.mark.parametrize("typed", TYPED)
def test_a_text_key_takes_exactly_what_was_typed(tmp_path: Path, typed: str) -> None:
    path = write(tmp_path, "input: a\noutput: b\n")
    cfg = load.load_config(EvaluateConfig, path, [f"title={typed}", f"output={typed}"])
    assert (cfg.title, cfg.output) == (typed, typed)
    if typed.strip():  # a place may not be empty
        cfg = load.load_config(EvaluateConfig, path, [f"students.mine={typed}", f"runs.012={typed}"])
        assert (cfg.students, cfg.runs) == ({"mine": typed}, {"012": typed})
    serve = load.load_config(ServeConfig, write(tmp_path, "input: a\n"), [f"search.title={typed}"])
    assert serve.search.title == typed


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: "${" not in text and text != "???"))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_arrives_as_it_was_typed(tmp_path: Path, typed: str) -> None:
    path = write(tmp_path, "steps:\n  retrieve: {data: a, output: b}\n", "pipeline.yaml")
    _, steps = load.load_pipeline(path, [f"steps.retrieve.output={typed}"])
    assert steps[0].values["output"] == typed
    cfg = load.load_config(EvaluateConfig, write(tmp_path, PLACES), [f"title={typed}"])
    assert cfg.title == typed


def test_lists_and_mappings_of_texts_keep_their_texts_and_numbers_stay_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, PLACES)
    overrides = ["students={012: 1_0, b: yes}", "metrics=[AP, R@10]", "latency_docs=12", "seed=1_0"]
    cfg = load.load_config(EvaluateConfig, path, overrides)
    assert (cfg.students, cfg.metrics) == ({"012": "1_0", "b": "yes"}, ("AP", "R@10"))
    assert texts.with_texts(tuple[str, ...], [1.1, False], ["1.10", "no"]) == ["1.10", "no"]
    assert (cfg.latency_docs, cfg.seed) == (12, 10)
    judge = load.load_config(JudgeConfig, path, ["engine_env={A: 01, B: on}", "engine_kwargs={a: 12, b: true, c: x}"])
    assert judge.engine_env == {"A": "01", "B": "on"}
    assert judge.engine_kwargs == {"a": 12, "b": True, "c": "x"}
    train = load.load_config(TrainConfig, path, ["lr=1e-4", "freeze_embeddings=no", "resources={CPU: 2}"])
    assert (train.lr, train.freeze_embeddings, train.resources) == (1e-4, False, {"CPU": 2.0})


def test_text_keys_of_yaml_files_take_what_is_written_and_null_stays_null(tmp_path: Path) -> None:
    path = write(tmp_path, 'input: 012\noutput: 2024_10_01\ntitle: 1.10\nstudents: {a: 12:30, 1: yes}\nlabels: "x"\n')
    cfg = load.load_config(EvaluateConfig, path)
    assert (cfg.input, cfg.output, cfg.title, cfg.labels) == ("012", "2024_10_01", "1.10", "x")
    assert cfg.students == {"a": "12:30", "1": "yes"}
    with pytest.raises(RradError, match="title=None"):
        load.load_config(EvaluateConfig, write(tmp_path, PLACES + "title: null\n"))


def test_names_that_are_one_number_to_yaml_stay_two_or_are_refused(tmp_path: Path) -> None:
    """Of students 1.1 and 1.10 the second was measured, under the name of the first."""
    path = write(tmp_path, PLACES + "students: {1.1: runs/a, 1.10: runs/b}\nruns: {012: c, 10: d}\n")
    cfg = load.load_config(EvaluateConfig, path)
    assert cfg.students == {"1.1": "runs/a", "1.10": "runs/b"}
    assert cfg.runs == {"012": "c", "10": "d"}
    cfg = load.load_config(EvaluateConfig, write(tmp_path, PLACES), ["students={1.1: runs/a, 1.10: runs/b}"])
    assert cfg.students == {"1.1": "runs/a", "1.10": "runs/b"}
    problem = "two of the names 1.1, 1.10 are one number to YAML; put them in quotes"
    labels = write(tmp_path, PLACES + "weights: {1.1: 1, 1.10: 2}\n")
    with pytest.raises(RradError, match=f"config: {labels}: {problem}"):
        load.load_config(LabelConfig, labels)
    steps = write(tmp_path, "steps: {label: {input: a, output: b, weights: {1.1: 1, 1.10: 2}}}\n", "pipeline.yaml")
    with pytest.raises(RradError, match=rf"steps\.label: {problem}"):
        load.load_pipeline(steps)


@pytest.mark.parametrize(
    ("typed", "read"), [("0100", 64), ("012", 10), ("-010", -8), ("12:30", 750), ("1:30:00", 5400)]
)
def test_a_number_that_yaml_reads_as_another_is_refused(tmp_path: Path, typed: str, read: int) -> None:
    """A training of max_steps=0100 ended after 64."""
    says = f"{typed} is {read} to YAML; write a number without zeros in front"
    with pytest.raises(RradError, match=f"config: .*{says}"):
        load.load_config(TrainConfig, write(tmp_path, PLACES), [f"max_steps={typed}"])
    with pytest.raises(RradError, match=says):
        load.load_config(TrainConfig, write(tmp_path, f"{PLACES}resources: {{CPU: {typed}}}\n"))
    step = "{train: {input: a, output: b, epochs: '${n}'}}"
    steps = write(tmp_path, f"n: {typed}\nsteps: {step}\n", "pipeline.yaml")
    with pytest.raises(RradError, match=rf"steps\.train: {says}"):
        load.load_pipeline(steps)


@given(number=st.integers(-(10**12), 10**12), zeros=st.sampled_from(["", "0", "00"]))
def test_a_number_is_what_is_written_or_refused(number: int, zeros: str) -> None:
    text = f"{'-' * (number < 0)}{zeros}{abs(number)}"
    try:
        read = texts.with_texts(int, safe_load(text), text)
    except InvalidInput:
        return
    assert int(read) == number


def test_a_variable_of_a_pipeline_reaches_texts_as_typed_and_numbers_as_numbers(tmp_path: Path) -> None:
    yaml = "run: x\nn: 1\nsplit: [dev]\nsteps:\n  train: {input: '${run}', output: 'o/${run}', epochs: '${n}'}\n"
    path = write(tmp_path, yaml)
    for typed in ("2024_10_01", "012", "yes", "exp #2", "a: b: c"):
        _, [step] = load.load_pipeline(path, [f"run={typed}", "n=10", "split=[train]", "steps.train.seed=7"])
        assert step.values == {"input": typed, "output": f"o/{typed}", "epochs": 10, "seed": 7}


def test_an_override_may_refer_to_another_key(tmp_path: Path) -> None:
    cfg = load.load_config(
        EvaluateConfig, write(tmp_path, PLACES), ["input=012", "output=runs/${input}/x", "title=${input}"]
    )
    assert (cfg.output, cfg.title) == ("runs/012/x", "012")


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


@pytest.mark.parametrize(
    ("language", "encoder", "template", "checked"),
    [
        ("auto", "bundled:all-minilm-l6-v2", "search", True),
        ("en", "bundled:all-minilm-l6-v2", "search", True),
        ("ko", "bundled:multilingual-e5-small", "search-ko", False),
        ("zh", "bundled:multilingual-e5-small", "search-zh", False),
        ("ja", "bundled:multilingual-e5-small", "search-ja", False),
    ],
)
def test_the_pipeline_of_your_collection_has_what_its_language_needs(
    language: str, encoder: str, template: str, checked: bool
) -> None:
    """The bundled LLM knows English alone: elsewhere its labels are fused with the first stage, unchecked."""
    _, steps = load.load_pipeline("configs/beir/pipeline.yaml", ["data=x", f"language={language}"])
    values = {step.name: step.values for step in steps}
    assert (values["retrieve"]["model"], values["judge"]["template"]) == (encoder, template)
    assert values["judge"]["gate"] == {"enabled": checked}
    with pytest.raises(RradError, match=r"languages\.fi\..* give template=VALUE encoder=VALUE gate=VALUE on"):
        load.load_pipeline("configs/beir/pipeline.yaml", ["data=x", "language=fi"])
    again = ["data=x", "language=fi", f"encoder={encoder}", f"template={template}", f"gate={checked}"]
    _, steps = load.load_pipeline("configs/beir/pipeline.yaml", again)
    assert {step.name: step.values for step in steps}["judge"] == values["judge"]


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
        ("zzz: {data: x}", ["steps.zzz", "choose one of collect, retrieve"]),
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
    monkeypatch.setattr("sys.argv", ["rrad", "train", "\x1b[2J.yaml"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "\\x1b[2J.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("data=gs://bucket/beir", "data"),
        ("data=S3://bucket/beir", "data"),
        ("output=file:///tmp/out", "output"),
        ("run=hdfs://host/run.txt", "run"),
        ("qrels={dev: 'https://host/dev.qrels'}", "qrels.dev"),
        ("output=s3:/bucket/out", "output"),
    ],
)
def test_a_place_of_another_scheme_is_refused_before_anything_runs(tmp_path: Path, override: str, key: str) -> None:
    (tmp_path / "retrieve.yaml").write_text("data: beir\noutput: out\n")
    with pytest.raises(RradError, match=f"{key}=.* is no place that rrad-ray reads or writes; write"):
        load.load_config(RetrieveConfig, f"{tmp_path}/retrieve.yaml", [override])


def test_odd_paths_are_read_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "retrieve.yaml").write_text("data: 'pydoc:'\noutput: 'a::b/x%20[1]/*?#'\n")
    cfg = load.load_config(RetrieveConfig, f"{tmp_path}/retrieve.yaml")
    assert (cfg.data, cfg.output) == ("pydoc:", "a::b/x%20[1]/*?#")


def test_qrels_of_unlabelled_queries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RradError, match="queries with qrels are train, dev or test"):
        load.build_config(RetrieveConfig, {"data": "x.tsv", "output": "out", "qrels": {"unlabelled": "y"}}, "x")


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("label: {stage: 1}", "steps.label.stage=1 is no text; name one of "),
        ("label: {stage: null}", "steps.label.stage=None is no text"),
        ("label: {stage: [label]}", r"steps.label.stage=\['label'\] is no text"),
        ("label: {stage: {a: 1}}", "steps.label.stage={'a': 1} is no text"),
        ("yes: {stage: label}", "steps.True: the name of a step is no text to YAML; put it in quotes"),
        ("1.0: {stage: label}", "steps.1.0: the name of a step is no text"),
    ],
)
def test_a_stage_or_a_steps_name_that_is_no_text_is_named(tmp_path: Path, step: str, says: str) -> None:
    path = write(tmp_path, f"steps:\n  {step}\n", "pipeline.yaml")
    with pytest.raises(RradError, match=says):
        load.load_pipeline(path, ["steps.label.input=a"] if step.startswith("label") else [])


def test_the_template_of_evaluates_teacher_is_read_with_the_config() -> None:
    with pytest.raises(RradError, match="no shipped template 'zzz'"):
        EvaluateConfig(input="a", output="b", teacher="model", template="zzz")
    EvaluateConfig(input="a", output="b", template="zzz")


@pytest.mark.parametrize("yaml", ["out:\n", "out: null\n", "root:\nout: ${root}/x\n"])
def test_a_variable_without_a_value_is_no_part_of_a_path(tmp_path: Path, yaml: str) -> None:
    """It was the folder `None` beside the user's files."""
    path = write(tmp_path, f"{yaml}steps:\n  retrieve: {{data: a, output: '${{out}}/e'}}\n", "pipeline.yaml")
    with pytest.raises(RradError, match=r"(out|root) has no value, and paths are made of it"):
        load.load_pipeline(path)
    name = "root" if "root" in yaml else "out"
    assert load.load_pipeline(path, [f"{name}=b"])[1][0].values["output"].startswith("b/")
