"""Labels in the files that other tools train on, taken by those tools' own readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rrad_ray import tables
from rrad_ray.config import ExportConfig, LabelConfig
from rrad_ray.data import click_log, exports
from rrad_ray.data.trec import read_trec_run
from rrad_ray.errors import RradError
from rrad_ray.rows import Labels
from rrad_ray.stages import export


def labels(folder: Path, simulated: str = "", **last: Any) -> str:
    """Two labelled queries; the teacher's order is c, a, b. `last`: columns of the last row."""
    rows = [
        {
            "query_id": f"q{n}",
            "query": "sort a list",
            "split": "unlabelled",
            "doc_ids": ["a", "b", "c"],
            "texts": ["sorts  a copy", "prints", "sorts in place"],
            "scores": [3.0, 2.0, 1.0],
            "sources": ["run"],
            "source_scores": [[3.0, 2.0, 1.0]],
            "qrel_ids": [],
            "qrel_grades": [],
            "targets": [1.0, 0.0, 2.0],
            "missing": [False, True, False],
            "confidence": [1.0] * 3,
            "reasons": [],
            "parse_status": ["ok"],
        }
        for n in range(2)
    ]
    out = tables.Output("label", LabelConfig(input="", output=f"{folder}/labels"), Labels, {})
    rows[-1].update(last)
    out.write_all(rows, 10)
    return out.commit(lineage=tables.Lineage(simulated=simulated))


def exported(folder: Path, kind: str) -> Path:
    return Path(export.run(ExportConfig(input=labels(folder), output=f"{folder}/out", format=kind)))


@pytest.mark.parametrize("kind", ["trec", "rankllm", "rankllm-train", "rankgpt", "sentence-transformers", "clicks"])
def test_a_ragged_row_is_set_aside_whatever_the_format(tmp_path: Path, kind: str) -> None:
    source = labels(tmp_path, texts=["sorts a copy", "prints"])
    output = export.run(ExportConfig(input=source, output=f"{tmp_path}/out", format=kind, max_quarantined=0.5))
    manifest = tables.read_manifest(output)
    assert (manifest.facts["queries"], manifest.quarantined) == (1, {"ragged row": 1})


def test_a_query_that_comes_again_is_set_aside_so_that_the_run_reads_back(tmp_path: Path) -> None:
    source = labels(tmp_path, query_id="q0")
    output = export.run(ExportConfig(input=source, output=f"{tmp_path}/out", format="trec", max_quarantined=0.5))
    assert list(read_trec_run(f"{output}/labels.run")) == ["q0"]
    assert tables.read_manifest(output).quarantined == {"duplicate id": 1}


def test_an_export_without_a_row_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    cfg = ExportConfig(input=labels(tmp_path), output=f"{tmp_path}/out", splits=("dev", "test"))
    with pytest.raises(RradError, match=r"export: .*/labels: holds no query of split dev or test; name a split"):
        export.run(cfg)
    source = labels(tmp_path / "low", targets=[0.0, -1.0, 0.0], split="train")
    cfg = ExportConfig(input=source, output=f"{tmp_path}/out2", format="clicks", splits=("train",))
    with pytest.raises(RradError, match="no document of these labels has a target above 0"):
        export.run(cfg)
    assert not (tmp_path / "out" / "requests.jsonl").exists()
    assert not (tmp_path / "out2" / "clicks.jsonl").exists()


def test_a_trec_run_of_labels_is_read_back_in_the_teachers_order(tmp_path: Path) -> None:
    found = read_trec_run(f"{exported(tmp_path, 'trec')}/labels.run")
    assert found == {f"q{n}": [("c", 2.0), ("a", 1.0), ("b", 0.0)] for n in range(2)}


def test_rankllms_reader_takes_labels_as_requests_best_first(tmp_path: Path) -> None:
    from rank_llm import data

    first, second = data.read_requests_from_file(f"{exported(tmp_path, 'rankllm')}/requests.jsonl")
    assert [(one.docid, one.score, one.doc) for one in first.candidates] == [
        ("c", 2.0, {"contents": "sorts in place"}),
        ("a", 1.0, {"contents": "sorts  a copy"}),
        ("b", 0.0, {"contents": "prints"}),
    ]
    assert second.query.qid == "q1"


@pytest.mark.parametrize(("kind", "answer"), [("rankllm-train", "[3] > [1] > [2]"), ("first", "[C] > [A] > [B]")])
def test_rankllms_training_conversations_end_in_the_teachers_order(tmp_path: Path, kind: str, answer: str) -> None:
    """What its `RankingDataset` and `GenerationDataset` read: three turns, the prompt in the second."""
    first, second = json.loads((exported(tmp_path, kind) / "train.json").read_text())
    turns = first["conversations"]
    assert [turn["from"] for turn in turns] == ["system", "human", "gpt"]
    assert turns[2]["value"] == answer
    assert f"{answer.split()[2]} sorts a copy\n" in turns[1]["value"], "identifiers are of the order shown"
    assert (first["docids"], first["scores"]) == (["c", "a", "b"], [2.0, 1.0, 0.0])
    assert second["id"] == "q1"


def test_firsts_letters_end_at_26_documents() -> None:
    row = {"query_id": "q", "query": "x", "doc_ids": ["d"] * 27, "texts": ["t"] * 27, "targets": [0.0] * 27}
    with pytest.raises(RradError, match="26 letters"):
        exports.conversation(row, letters=True)


def test_rankgpts_own_steps_from_file_to_order_give_the_teachers(tmp_path: Path) -> None:
    """As its `specialization.py` does: digits of the permutation, less one, index the retrieved passages."""
    folder = exported(tmp_path, "rankgpt")
    data = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    responses = json.loads((folder / "permutations.json").read_text())
    assert len(data) == len(responses) == 2
    digits = "".join(char if char.isdigit() else " " for char in responses[0])
    order = [data[0]["retrieved_passages"][int(one) - 1]["docid"] for one in digits.split()]
    assert order == ["c", "a", "b"]


def test_sentence_transformers_listwise_loss_takes_the_columns_as_they_stand(tmp_path: Path) -> None:
    import datasets
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.losses import RankNetLoss

    from rrad_ray.tables import checkpoints

    place = f"{exported(tmp_path, 'sentence-transformers')}/train.parquet"
    table = datasets.load_dataset("parquet", data_files=place, split="train", cache_dir=f"{tmp_path}/cache")
    assert table.column_names == ["query", "documents", "scores"]
    assert pq.read_schema(place).names == table.column_names
    model = CrossEncoder(checkpoints.resolve(checkpoints.BUNDLED[0]), num_labels=1, device="cpu")
    columns = [list(table["query"]), list(table["documents"])]
    loss = RankNetLoss(model)(columns, [torch.tensor(scores) for scores in table["scores"]])
    loss.backward()
    assert float(loss) > 0


def test_judged_relevant_documents_stand_in_for_clicked_ones(tmp_path: Path) -> None:
    """What `tune` reads is the text that `retrieve` joined, as title and summary again."""
    row = {
        "query": "sort a list",
        "texts": [" sorted()\na new list ", "print()", "sort()"],
        "targets": [1.0, 0.0, 2.0],
    }
    exports.write(iter([row]), str(tmp_path), "clicks")
    rejected: list[Any] = []
    found = list(click_log.read_clicks(str(tmp_path), lambda *bad: rejected.append(bad)))
    assert found == [
        {"query": "sort a list", "title": "sorted()", "summary": "a new list", "clicks": 1},
        {"query": "sort a list", "title": "sort()", "summary": "", "clicks": 1},
    ]
    assert rejected == []


def test_labels_of_a_simulated_teacher_say_so_wherever_they_go(tmp_path: Path) -> None:
    source = labels(tmp_path, simulated="from the judgments")
    export.run(ExportConfig(input=source, output=f"{tmp_path}/out"))
    assert tables.read_manifest(f"{tmp_path}/out").lineage.simulated == "from the judgments"


def test_a_row_that_the_format_cannot_hold_leaves_no_file(tmp_path: Path) -> None:
    row = {"query_id": "a b", "query": "x", "doc_ids": ["d"], "texts": ["t"], "targets": [0.0]}
    with pytest.raises(RradError, match="white space"):
        exports.write(iter([row]), str(tmp_path), "trec")
    assert not (tmp_path / "labels.run").exists()
