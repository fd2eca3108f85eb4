"""Config classes: what they refuse, in which words, and what they hand on."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from rrad_ray.config import (
    CollectConfig,
    EvaluateConfig,
    ExperimentConfig,
    ExperimentDesign,
    FinetuneConfig,
    JudgeConfig,
    LabelConfig,
    OnlineConfig,
    PrerankConfig,
    PromptConfig,
    RetrieveConfig,
    ServeConfig,
    TrainConfig,
    load,
)
from rrad_ray.config.catalog import STAGES
from rrad_ray.config.reference import keys_of
from rrad_ray.errors import RradError

PATHS = {"input": "a", "output": "b"}


@pytest.mark.parametrize(
    ("schema", "values", "says"),
    [
        (RetrieveConfig, {"bm25_depth": -1}, "bm25_depth=-1: must be at least 0"),
        (
            RetrieveConfig,
            {"bm25_depth": 0, "dense_depth": 0},
            "bm25_depth=0: bm25_depth or dense_depth must be above 0",
        ),
        (RetrieveConfig, {"queries": {"dev": -1}}, "queries.dev=-1: must not be negative"),
        (RetrieveConfig, {"qrels": {"tset": "x"}}, "qrels='tset': choose one of train, dev, test, unlabelled"),
        (RetrieveConfig, {"num_workers": 0}, "num_workers=0: write a number from 1, or {min: 1, max: 4}"),
        (PrerankConfig, {"splits": "train"}, "splits='train': write a list, as in [one, two]"),
        (JudgeConfig, {"resources": "GPU"}, "resources='GPU': write a mapping, as in {key: value}"),
        (JudgeConfig, {"gate": {"enabled": "maybe"}}, "gate.enabled='maybe': write true or false"),
        (TrainConfig, {"max_steps": 1.5}, "max_steps=1.5: must be a whole number"),
        (TrainConfig, {"lr": "fast"}, "lr='fast': must be a number"),
        (PrerankConfig, {"top_k": 1, "bottom_k": 0}, "top_k=1: keep at least two documents"),
        (PrerankConfig, {"keep_whole": ["Dev"]}, "keep_whole.0='Dev': choose one of train, dev, test, unlabelled"),
        (CollectConfig, {"night": "a/b"}, "night='a/b': must be up to 100 letters, digits, '.', '_' and '-', as in"),
        (CollectConfig, {"night": "a" * 101}, "must be up to 100 letters"),
        (CollectConfig, {"night": "last"}, "night='last': is what a night's evaluation calls one of its students"),
        (JudgeConfig, {"task": "sort"}, "task='sort': choose one of likelihood, order, grade, score, explain"),
        (JudgeConfig, {"gate": {"max_p": 0}}, "gate.max_p=0: must be above 0"),
        (JudgeConfig, {"shard_queries": 1001}, "shard_queries=1001: must be at most 1000"),
        (JudgeConfig, {"durable_s": 61}, "durable_s=61: must be at most 60"),
        (JudgeConfig, {"repeats": 2}, "repeats=2: only task=order is repeated"),
        (JudgeConfig, {"task": "order", "repeats": 2, "shuffle": False}, "repeats=2: greedy answers"),
        (JudgeConfig, {"task": "order", "window": 1}, "window=1: must be at least 2"),
        (JudgeConfig, {"task": "order", "window": 4, "window_step": 5}, "window_step=5: must be in 1..window"),
        (JudgeConfig, {"task": "order", "window": 20, "engine": "echo"}, "engine='echo': a window asks a model"),
        (JudgeConfig, {"engine": "openai"}, "task='likelihood': engine=openai takes order, grade or explain"),
        (
            JudgeConfig,
            {"openai": {"url": "localhost:8000"}},
            "openai.url='localhost:8000': must begin with http(s)://",
        ),
        (
            JudgeConfig,
            {"openai": {"key_env": "sk-abcDEF123"}},
            "openai.key_env: is no name of an environment",
        ),
        (
            JudgeConfig,
            {"openai": {"key_env": "hf_abcDEF123"}},
            "openai.key_env: is no name of an environment",
        ),
        (JudgeConfig, {"resources": {"GPU": -1}}, "resources.GPU=-1: must be at least 0"),
        (TrainConfig, {"resources": {"CPU": 0}}, "resources={'CPU': 0}: name at least one resource above 0"),
        (ServeConfig, {"resources": {}}, "resources={}: name at least one resource above 0"),
        (EvaluateConfig, {"students": {"new": ""}}, "students.new='': is empty: name a place, or leave the key out"),
        (
            RetrieveConfig,
            {"runs": {"judge": "a.run"}},
            "runs='judge': that is the teacher's name; choose",
        ),
        (RetrieveConfig, {"runs": {"shuffled": "a.run"}}, "runs='shuffled': the gate, the report or `prerank` calls"),
        (JudgeConfig, {"openai": {"request": {"model": "other"}}}, "openai.request.model='other': rrad-ray sets it"),
        (JudgeConfig, {"openai": {"request": {"extra_body": {"n": 3}}}}, "openai.request.n=3: rrad-ray sets it"),
        (EvaluateConfig, {"runs": {"ours": " "}}, "runs.ours=' ': is empty: name a place"),
        (RetrieveConfig, {"qrels": {"dev": ""}}, "qrels.dev='': is empty: name a place"),
        (EvaluateConfig, {"seed": -1}, "seed=-1: must be at least 0"),
        (RetrieveConfig, {"seed": -1}, "seed=-1: must be at least 0"),
        (PrerankConfig, {"seed": 2**32}, "seed=4294967296: must be below 4294967296"),
        (JudgeConfig, {"seed": -1}, "seed=-1: must be at least 0"),
        (TrainConfig, {"seed": 2**64}, "seed=18446744073709551616: must be below 4294967296"),
        (FinetuneConfig, {"seed": -1}, "seed=-1: must be at least 0"),
        (TrainConfig, {"lr": True}, "lr=True: must be a number"),
        (TrainConfig, {"max_steps": True}, "max_steps=True: must be a number"),
        (
            ServeConfig,
            {"online": {"events": "e", "variants": {"winner": 1, "identity": 1}}},
            "online.name='': must not",
        ),
        (
            ServeConfig,
            {
                "models": {"\u4e2d": "m"},
                "online": {"events": "e", "name": "t", "variants": {"winner": 1, "\u4e2d": 1}},
            },
            "online.variants={'winner': 1.0, '\u4e2d': 1.0}: '\u4e2d' must be visible ASCII, for a header",
        ),
        (
            ServeConfig,
            {"models": {"\u4e2d": "m"}, "online": {"variants": {"winner": 1, "\u4e2d": 1}}},
            "online.variants={'winner': 1.0, '\u4e2d': 1.0}: '\u4e2d' must be visible ASCII, for a header",
        ),
        (ServeConfig, {"cors_origins": ["https://a.example/"]}, "cors_origins='https://a.example/': write an origin"),
        (ServeConfig, {"cors_origins": ["a.example"]}, "cors_origins='a.example': write an origin"),
        (JudgeConfig, {"gate": {"enabeld": True}}, "unknown key 'gate.enabeld' (did you mean: 'gate.enabled')"),
        (
            JudgeConfig,
            {"num_workers": {"min": 1, "max": 2}},
            "num_workers={'min': 1, 'max': 2}: write a number from 1",
        ),
        (JudgeConfig, {"simulated": {"missing": 1.5}}, "simulated.missing=1.5: must be at most 1"),
        (LabelConfig, {"scale": "table"}, "scale='table': sources differ in scale"),
        (TrainConfig, {"lora_rank": 4}, "lora_rank=4: only for kind=decoder"),
        (TrainConfig, {"terms": {"weight": 1}, "kind": "decoder"}, "terms.weight=1.0: only for kind=encoder"),
        (TrainConfig, {"losses": {"bce": 1}, "normalize": "query"}, "normalize='query': the loss bce"),
        (
            TrainConfig,
            {"splits": ["train", "dev"]},
            "splits=['train', 'dev']: dev chooses the checkpoint: leave",
        ),
        (FinetuneConfig, {"objective": "order", "splits": ["dev"]}, "set eval_rows=0, which keeps the last one"),
        (TrainConfig, {"accumulate": 9}, "accumulate=9: a step has only queries_per_step queries"),
        (TrainConfig, {"parallel": "fsdp", "average_every": 2}, "average_every=2: workers that share one set"),
        (FinetuneConfig, {"objective": "order", "rank_weight": 1}, "docs_per_query=0: the rank loss"),
        (EvaluateConfig, {"split": "dev"}, "dev='dev': weights must not be fitted"),
        (EvaluateConfig, {"teacher": "m"}, "teacher='m': it is measured beside its `labels`"),
        (
            EvaluateConfig,
            {"precision": "int8", "backend": "compile"},
            "precision='int8': int8 is made by backend=torch and onnx",
        ),
        (
            ExperimentConfig,
            {"name": "t", "variants": {"a": 1, "b": 1}, "metric": "ctr"},
            "metric='ctr': choose one of",
        ),
        (ExperimentConfig, {"name": "t", "variants": {"a": 1}}, "variants={'a': 1.0}: name at least two"),
    ],
)
def test_a_forbidden_value_is_named_with_what_is_wanted(schema: type, values: dict[str, Any], says: str) -> None:
    given = {RetrieveConfig: {"data": "a", "output": "b"}, ServeConfig: {"input": "a"}}.get(schema, PATHS)
    with pytest.raises(RradError) as caught:
        load.build_config(schema, {**given, **values}, "c.yaml")
    assert caught.value.place == "c.yaml"
    assert says in caught.value.problem


def test_several_wrong_keys_are_reported_at_once() -> None:
    with pytest.raises(RradError) as caught:
        load.build_config(TrainConfig, {**PATHS, "lr": 0, "epochs": -1, "knid": "encoder"}, "c.yaml")
    assert "lr=0: must be above 0" in caught.value.problem
    assert "epochs=-1: must be above 0" in caught.value.problem
    assert "unknown key 'knid' (did you mean: 'kind')" in caught.value.problem


def test_a_config_cannot_be_changed_but_a_checked_copy_can_be_made() -> None:
    cfg = TrainConfig("a", "b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.lr = 1.0  # type: ignore[misc]
    assert dataclasses.replace(cfg, lr=3e-4).lr == 3e-4
    with pytest.raises(ValueError, match="greater than 0"):
        dataclasses.replace(cfg, lr=-1.0)


def test_every_key_of_every_stage_has_a_description_and_a_default_that_the_class_takes() -> None:
    for schema, _ in STAGES.values():
        keys = list(keys_of(schema))
        assert keys
        for key in keys:
            assert len(key.meaning.split()) >= 2, f"{schema.__name__}.{key.name}"
            assert key.meaning.endswith((".", ")")), f"{schema.__name__}.{key.name}: {key.meaning}"
            assert key.kind, f"{schema.__name__}.{key.name}"


def test_prompts_and_designs_need_no_paths() -> None:
    assert PromptConfig(task="order").repeats == 1
    design = ExperimentDesign("t", {"old": 1, "new": 3})
    assert (design.against, design.treatments) == ("old", ["new"])
    assert OnlineConfig().test is None
    assert OnlineConfig(events="e", name="t", variants={"winner": 1, "identity": 1}).test == ExperimentDesign(
        "t", {"winner": 1, "identity": 1}
    )


def test_a_range_of_processes_gives_its_ends() -> None:
    assert TrainConfig("a", "b", num_workers=3).worker_range == (3, 3)
    assert TrainConfig("a", "b", num_workers={"min": 1, "max": 4}).worker_range == (1, 4)
    assert ServeConfig("a", replicas={"max": 8}).replica_range == (1, 8)
    assert JudgeConfig("a", "b", num_workers={"min": 0, "max": 8}).engines == 8


def test_a_causal_lm_has_one_learning_rate_and_a_student_two() -> None:
    assert FinetuneConfig("a", "b", lr=1e-5).peak_head_lr == 1e-5
    assert TrainConfig("a", "b", lr=1e-5, head_lr=1e-3).peak_head_lr == 1e-3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"losses": {"ranknet": 0}}, "give one of them a weight above 0"),
        ({"losses": {"ranknet": 0.0, "margin": {"weight": 0, "tau": 1.0}}}, "give one of them a weight above 0"),
        ({"splits": []}, "splits"),
        ({"max_failures": -7}, "max_failures\n.*greater than or equal to -1"),
    ],
)
def test_a_training_that_would_learn_nothing_or_fail_for_ever_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TrainConfig("i", "o", **change)
