"""finetune under Ray Train with a real causal LM of two layers: clicks, a labeller, bad input."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rrad_ray import tables
from rrad_ray.config import FinetuneConfig, PromptConfig, SelectConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation import fusion
from rrad_ray.labelling import planner
from rrad_ray.rows import Candidates, Labels, by_source
from rrad_ray.stages import finetune
from rrad_ray.tables import checkpoints
from tests.fixtures import curves_of, row_of, rrad
from tests.lists import row
from tests.toys import causal_lm

pytestmark = pytest.mark.ray

SMALL: dict[str, Any] = {"layers": 2, "max_length": 192, "lr": 1e-3, "warmup_steps": 1, "freeze_embeddings": True}


@pytest.fixture(scope="module")
def log(beir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A click log: every judged document of that folder was clicked for its query. Two lines are no clicks."""
    corpus, queries = (
        {item["_id"]: item["text"] for item in map(json.loads, (beir / name).read_text().splitlines())}
        for name in ("corpus.jsonl", "queries.jsonl")
    )
    lines = []
    for split in ("train", "dev", "test"):
        for line in (beir / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]:
            query_id, doc_id, _ = line.split("\t")
            title, _, summary = corpus[doc_id].partition("\n")
            click = {"query": queries[query_id], "title": title, "summary": summary, "clicks": 1 + len(lines) % 3}
            lines.append(json.dumps(click))
    lines[3:3] = [json.dumps({"query": "no title", "title": ""}), "no JSON"]
    folder = tmp_path_factory.mktemp("log")
    (folder / "clicks.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """What starts a training fails the test."""
    monkeypatch.setattr("rrad_ray.runtime.trainer.run_training", lambda *rest: pytest.fail("training was started"))


def labelled(folder: Path, targets: list[list[float]]) -> str:
    """Labels of a query for each list of targets, of at most two documents, whatever the number of targets."""
    out = tables.Output("label", SelectConfig("", f"{folder}/labels"), Labels, {})
    rows = []
    for number, wanted in enumerate(targets):
        texts = ["one", "two"][: len(wanted)]
        made = {"targets": wanted, "missing": [False] * len(texts), "confidence": [1.0] * len(texts), "reasons": []}
        rows.append(row_of(f"q{number}", texts) | made | {"parse_status": ["ok"]})
    out.write_all(rows, 2)
    return out.commit()


@pytest.mark.slow
def test_two_workers_pretrain_on_a_click_log_each_on_its_own_share(log: Path, tmp_path: Path) -> None:
    options = {"num_workers": 2, "sequences_per_step": 1, "max_steps": 8, "eval_steps": 4, "held_out": 0.2, **SMALL}
    cfg = FinetuneConfig(input=str(log), output=f"{tmp_path}/cpt", eval_rows=8, **options)
    finetune.run(cfg)
    manifest = tables.read_manifest(cfg.output)
    shares = [json.loads(Path(cfg.output, "examples", f"{rank}.json").read_text()) for rank in (0, 1)]
    total = manifest.facts["examples"]
    assert min(share["examples"] for share in shares) > 0
    assert total["examples"] == sum(share["examples"] for share in shares)
    assert 0.6 * manifest.facts["rows"] < total["examples"] < manifest.facts["rows"], (
        "a fifth of the queries is held out"
    )
    assert manifest.quarantined == {"empty text": 1, "malformed JSON": 1}
    curves = json.loads(Path(cfg.output, "history.json").read_text())
    assert curves["dev_perplexity"][-1] < curves["dev_perplexity"][0]
    assert manifest.facts["best"]["dev_perplexity"] == min(curves["dev_perplexity"])
    folder = checkpoints.resolve(cfg.output)
    assert not os.path.exists(f"{folder}/state.pt"), "the optimizer's state was shipped"
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers == 2
    assert finetune.run(cfg) == cfg.output


@pytest.mark.slow
def test_finetune_killed_in_the_middle_goes_on_from_its_checkpoint_to_the_end(
    log: Path, tmp_path: Path, killed: Callable[..., str]
) -> None:
    output = f"{tmp_path}/killed"
    arguments = ["finetune", "configs/disranker/cpt.yaml", f"input={log}", f"output={output}"]
    arguments += [
        f"model={checkpoints.BUNDLED[1]}",
        "gradient_checkpointing=false",
        "num_workers=1",
        "resources={CPU: 1}",
    ]
    arguments += [f"{key}={value}" for key, value in SMALL.items()]
    arguments += ["sequences_per_step=1", "epochs=90", "max_steps=60", "eval_steps=10", "eval_rows=4", "held_out=0.2"]
    killed(arguments, lambda: len(curves_of(output)["dev_steps"]) >= 2)
    assert not os.path.exists(f"{output}/manifest.json")
    again = rrad(*arguments)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "goes on from the last checkpoint" in again.stdout
    assert curves_of(output)["dev_steps"] == [10, 20, 30, 40, 50, 60]
    assert tables.read_manifest(output).facts["ended"] == "steps"


def test_a_tokenizer_without_an_end_stops_before_a_cluster_starts(
    log: Path, tmp_path: Path, no_training: None
) -> None:
    source = causal_lm(tmp_path / "model", ["sort a list"], tied=True)
    config = Path(source, "tokenizer_config.json")
    content = {key: value for key, value in json.loads(config.read_text()).items() if key != "eos_token"}
    config.write_text(json.dumps(content))
    with pytest.raises(RradError, match=r"finetune: .*model: the tokenizer of .* has no eos token"):
        finetune.run(FinetuneConfig(input=str(log), output=f"{tmp_path}/none", model=source))


@pytest.mark.slow
def test_a_labeller_learns_from_labels_and_judge_takes_it(short: str, tmp_path: Path) -> None:
    labels = tables.Output("label", SelectConfig(input="", output=f"{tmp_path}/labels"), Labels, {})
    rows = []
    for item in tables.read(short, Candidates):
        targets = fusion.fuse(by_source(item), {"bm25": 1.0, "dense": 2.0})
        gone = [target < 0 for target in targets]
        more = {"targets": targets, "missing": gone, "confidence": [1.0] * len(targets)}
        rows.append({**item, **more, "reasons": [], "parse_status": ["ok"]})
    unsure = next(number for number, item in enumerate(rows) if item["split"] == "train")
    rows[unsure] = {**rows[unsure], "targets": [1.0] * len(rows[unsure]["targets"])}
    labels.write_all(rows, 16)
    limits = {"doc_tokens": 16, "max_tokens": 40, "docs_per_query": 4, "rank_weight": 1.0, "eval_rows": 3}
    options = {"objective": "order", "sequences_per_step": 1, "max_steps": 6, "eval_steps": 6, **limits, **SMALL}
    cfg = FinetuneConfig(input=labels.commit(), output=f"{tmp_path}/labeller", **(options | {"max_length": 384}))
    finetune.run(cfg)
    manifest = tables.read_manifest(cfg.output)
    assert manifest.facts["rows"] == 48
    assert manifest.facts["examples"]["set_aside"]["all equal"] == 1
    assert {"step", "loss", "dev_ndcg", "dev_token_loss"} <= set(manifest.facts["best"])
    judge = PromptConfig(task="order", doc_tokens=16, engine_kwargs={"max_model_len": 384})
    [prompt] = planner.Planner(judge, checkpoints.resolve(cfg.output))(row([2.0, 1.0]))
    model = AutoModelForCausalLM.from_pretrained(checkpoints.resolve(cfg.output), dtype=torch.float32)
    with torch.inference_mode():
        chances = model(torch.tensor([prompt["token_ids"]])).logits[0, -1].softmax(-1)
    bracket = planner.Planner(judge, checkpoints.resolve(cfg.output)).tokenizer("[", add_special_tokens=False)[
        "input_ids"
    ]
    assert float(chances[bracket[0]]) > 0.5, "it has learnt how an answer begins"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_quarantined": 0.001}, "2 of .* rows are bad.*raise max_quarantined"),
        ({"min_clicks": 9}, "holds no row to learn from; lower min_clicks"),
        ({"max_length": 2}, "no example is left to learn from: .* with prompt too long; mend the input"),
        ({"held_out": 0.999999}, "no example is left to learn from: all queries are held out"),
        ({"input": "/no/such/log"}, "nothing there; check the path"),
        ({"model": "/no/such/model"}, "no such model folder"),
        ({"lora_rank": 4}, "needs peft"),
        ({"patience": 2, "held_out": 0.0}, "log.*: patience=2 but there are no dev rows to measure; judge some"),
        ({"patience": 2, "eval_rows": 0}, "no dev rows to measure"),
        ({"sequences_per_step": 900}, r"log.*: \d+ sequences of 192 tokens do not fill a step of 900 of each worker"),
        ({"sequences_per_step": 1, "num_workers": {"min": 1, "max": 400}}, "0 sequences of 192 tokens do not fill"),
    ],
    ids=[
        *("bad rows", "few clicks", "short sequences", "held out", "input", "model", "peft", "patience", "no rows"),
        *("few sequences", "many workers"),
    ],
)
def test_what_cannot_work_is_said_before_a_cluster_starts(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_training: None, changes: dict[str, Any], says: str
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    options = {"input": str(log), **SMALL, **changes}
    with pytest.raises(RradError, match=says):
        finetune.run(FinetuneConfig(output=f"{tmp_path}/none", **options))


def test_orders_without_a_dev_query_to_be_patient_by_are_said_before_a_cluster_starts(
    tmp_path: Path, no_training: None
) -> None:
    with pytest.raises(RradError, match="labels: patience=1 but there are no dev rows to measure; judge some"):
        finetune.run(
            FinetuneConfig(labelled(tmp_path, [[1.0, 2.0]]), f"{tmp_path}/none", objective="order", patience=1)
        )


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        ([float("nan"), 2.0], "4 of 4 rows are bad.*target that is not a number"),
        ([1.0, 1.0], "holds no order to learn from: 4 with no preference"),
        ([1.0], "holds no order to learn from: 4 with one document"),
        ([3.0, 2.0, 1.0], "4 of 4 rows are bad.*not one target for each document"),
    ],
)
def test_lists_without_an_order_are_said_before_a_cluster_starts(
    tmp_path: Path, no_training: None, targets: list[float], says: str
) -> None:
    """One whose targets are no numbers was learnt as the order of its candidates."""
    source = labelled(tmp_path, [targets] * 4)
    cfg = FinetuneConfig(source, f"{tmp_path}/none", objective="order", max_length=512)
    with pytest.raises(RradError, match=says):
        finetune.run(cfg)


def test_lists_all_longer_than_a_sequence_are_said_before_a_cluster_starts(tmp_path: Path, no_training: None) -> None:
    source = labelled(tmp_path, [[1.0, 2.0]])
    cfg = FinetuneConfig(source, f"{tmp_path}/none", objective="order", max_length=64, max_tokens=32)
    with pytest.raises(RradError, match=r"labels: no example is left to learn from: 1 with prompt too long; mend"):
        finetune.run(cfg)
