"""`retrieve` over parts of a collection: the same rows whatever the parts, after a kill too, and runs are joined."""

from __future__ import annotations

import gzip
import json
import math
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rrad_ray import tables
from rrad_ray.config import RetrieveConfig
from rrad_ray.errors import RradError
from rrad_ray.retrieval import approximate, searching
from rrad_ray.rows import Candidates, CollectedQuery, Quarantined
from rrad_ray.runtime import cluster
from rrad_ray.stages import retrieve
from tests import tiny
from tests.fixtures import kill_before_the_manifest, rrad

WORDS = [f"w{number}" for number in range(60)]


def collection(folder: Path, documents: int = 90, queries: int = 20) -> str:
    """A BEIR folder of random words, in which every seventh document is a copy of the one before it."""
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, 6)) for _ in range(documents)]
    texts = [texts[number - (number % 7 == 6)] for number in range(documents)]
    folder.mkdir(exist_ok=True)
    rows = [{"_id": f"d{number}", "title": "", "text": text} for number, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = [{"_id": f"q{number}", "text": " ".join(draw.choice(WORDS, 3))} for number in range(queries)]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, asked)))
    return str(folder)


def own_vectors(path: Path, names: list[str], seed: int, size: int = 8) -> str:
    vectors = np.random.default_rng(seed).normal(size=(len(names), size))
    order = np.random.default_rng(0).permutation(len(names))
    table = {"id": [names[index] for index in order], "vector": [vectors[index].tolist() for index in order]}
    pq.write_table(pa.table(table), path)
    return str(path)


def rows_of(cfg: RetrieveConfig) -> list[dict[str, Any]]:
    return list(tables.read(retrieve.run(cfg), Candidates))


def without_ray(monkeypatch: pytest.MonkeyPatch, seed: int, most: int = sys.maxsize) -> None:
    """Do all parts in this process, in a random order; the run dies after `most` of them."""
    ordinary, order, ended = cluster.map_parts, random.Random(seed), 0

    def map_parts(work: type, options: Any, names: list[str], place: str, **pool: Any) -> Iterator[str]:
        nonlocal ended
        for name in order.sample(names, len(names)):
            if ended == most:
                raise KeyboardInterrupt
            yield from ordinary(work, options, [name], place, **pool)
            ended += 1

    monkeypatch.setattr(cluster, "map_parts", map_parts)


@pytest.fixture
def searched(tmp_path: Path) -> dict[str, Any]:
    """A collection with vectors of its own; document 89 has none."""
    options: dict[str, Any] = {"data": collection(tmp_path / "beir"), "bm25_depth": 4, "dense_depth": 4}
    options |= {"model": tiny.save(tmp_path / "model", "Bert", "Model"), "rows_per_part": 4}
    options["vectors"] = own_vectors(tmp_path / "vectors.parquet", [f"d{number}" for number in range(89)], 1)
    options["query_vectors"] = own_vectors(tmp_path / "queries.parquet", [f"q{number}" for number in range(20)], 2)
    return options


@pytest.mark.parametrize(("documents", "block"), [(17, 8), (1, 20)])
def test_parts_blocks_and_their_order_change_no_candidate_score_or_order(
    documents: int, block: int, searched: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows_of(RetrieveConfig(output=f"{tmp_path}/whole", **searched))
    without_ray(monkeypatch, documents)
    cut: dict[str, Any] = {"part_documents": documents, "block_queries": block}
    assert rows_of(RetrieveConfig(output=f"{tmp_path}/parts", **searched, **cut)) == whole
    assert len(whole) == 20
    assert max(len(row["doc_ids"]) for row in whole) > 4
    [part] = tables.part_names(f"{tmp_path}/parts/quarantine")
    [bad] = tables.read_part(f"{tmp_path}/parts/quarantine", part, Quarantined)
    assert (bad["id"], bad["reason"].partition(":")[0]) == ("d89", "no vector")
    assert not tables.exists(f"{tmp_path}/parts/work")


def test_queries_that_the_users_own_vectors_lack_are_counted_and_none_at_all_is_an_error(
    searched: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch, 1)
    searched["query_vectors"] = own_vectors(tmp_path / "some.parquet", [f"q{number}" for number in range(19)], 2)
    rows = rows_of(RetrieveConfig(output=f"{tmp_path}/some", **searched))
    assert len(rows) == 20
    bad = tables.read_part(f"{tmp_path}/some/quarantine", tables.part_name(0), Quarantined)
    assert {each["id"]: each["reason"].partition(":")[0] for each in bad} == {"d89": "no vector", "q19": "no vector"}
    searched["query_vectors"] = own_vectors(tmp_path / "none.parquet", [str(number) for number in range(20)], 2)
    with pytest.raises(RradError, match=r"none\.parquet: holds no vector of any query, such as 'q\d+'; write"):
        retrieve.run(RetrieveConfig(output=f"{tmp_path}/none", **searched))


def test_a_run_does_not_go_on_with_other_vectors_of_the_users_own(
    searched: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = RetrieveConfig(output=f"{tmp_path}/out", part_documents=16, block_queries=4, **searched)
    without_ray(monkeypatch, 1, 38)
    with pytest.raises(KeyboardInterrupt):
        retrieve.run(cfg)
    own_vectors(Path(searched["vectors"]), [f"d{number}" for number in range(89)], 3)
    with pytest.raises(RradError, match=r"out: holds the output of other inputs \(vectors='.*' -> '.*'"):
        retrieve.run(cfg)


@pytest.mark.parametrize("steps", [1, 20, 38])
def test_a_run_that_ends_at_any_step_goes_on_with_the_missing_ones(
    steps: int, searched: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows_of(RetrieveConfig(output=f"{tmp_path}/whole", **searched))
    cfg = RetrieveConfig(output=f"{tmp_path}/out", part_documents=16, block_queries=4, **searched)
    with monkeypatch.context() as patch:
        without_ray(patch, steps, steps)
        with pytest.raises(KeyboardInterrupt):
            retrieve.run(cfg)
    work = tables.data_files(f"{cfg.output}/work", (".parquet", ".npz"))
    kept = {file.uri: Path(file.uri).stat().st_mtime_ns for file in work}
    with monkeypatch.context() as patch:
        without_ray(patch, steps, 46 - steps)  # of 48 steps
        with pytest.raises(KeyboardInterrupt):
            retrieve.run(cfg)
    assert {uri: Path(uri).stat().st_mtime_ns for uri in kept} == kept, "finished work was repeated"
    without_ray(monkeypatch, steps)
    assert rows_of(cfg) == whole


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_give_the_rows_of_one(searched: dict[str, Any], tmp_path: Path) -> None:
    whole = rows_of(RetrieveConfig(output=f"{tmp_path}/whole", **searched))
    cut: dict[str, Any] = {"part_documents": 17, "block_queries": 8, "num_workers": 2}
    assert rows_of(RetrieveConfig(output=f"{tmp_path}/parts", **searched, **cut)) == whole


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_missing_parts_to_the_rows_of_one_that_was_not(
    tmp_path: Path, killed: Callable[..., str]
) -> None:
    data, model = collection(tmp_path / "beir", 120), tiny.save(tmp_path / "model", "Bert", "Model")
    ids = [f"d{number}" for number in range(120)]
    vectors = own_vectors(tmp_path / "vectors.parquet", ids, 1)
    queries = own_vectors(tmp_path / "queries.parquet", [f"q{number}" for number in range(20)], 2)
    arguments = ["retrieve", "configs/retrieve.yaml", f"data={data}", f"model={model}", f"vectors={vectors}"]
    arguments += [f"query_vectors={queries}", "rows_per_part=4", "part_documents=8", "block_queries=4"]
    hits = tables.join(f"{tmp_path}/out", tables.WORK, "hits")
    killed([*arguments, f"output={tmp_path}/out"], lambda: len(tables.data_files(hits)) >= 3)
    kept = {file.uri: Path(file.uri).stat().st_mtime_ns for file in tables.data_files(hits, (".parquet",))}
    assert 3 <= len(kept) < 75
    again = rrad(*arguments, f"output={tmp_path}/out")
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-2000:]
    whole = rows_of(RetrieveConfig(data, f"{tmp_path}/whole", model=model, vectors=vectors, query_vectors=queries))
    assert list(tables.read(f"{tmp_path}/out", Candidates)) == whole


def test_runs_are_joined_without_a_model_and_unknown_ids_are_counted(tmp_path: Path) -> None:
    data = collection(tmp_path / "beir")
    lines = [f"q{n} Q0 d{(n + place) % 90} {place} {9 - place} x" for n in range(19) for place in range(3)]
    (tmp_path / "a.run").write_text("\n".join([*lines, "q0 Q0 gone 4 1 x", "q1 Q0 gone 4 1 x", "else Q0 d1 1 1 x"]))
    columns = {"query_id": ["q0", "q0"], "doc_id": ["d1", "d7"], "score": [0.5, 0.25]}
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    runs = {"mine": f"{tmp_path}/a.run", "other": f"{tmp_path}/b.parquet"}
    cfg = RetrieveConfig(data, f"{tmp_path}/out", model="no-such-model", runs=runs, part_documents=40)
    rows = {row["query_id"]: row for row in rows_of(cfg)}
    assert set(rows) == {f"q{number}" for number in range(19)}
    assert (rows["q5"]["doc_ids"], rows["q5"]["sources"]) == (["d5", "d6", "d7"], ["mine", "other"])
    assert sorted(rows["q0"]["doc_ids"]) == ["d0", "d1", "d2", "d7"]
    by_id = {doc_id: n for n, doc_id in enumerate(rows["q0"]["doc_ids"])}
    mine, other = rows["q0"]["source_scores"]
    assert (mine[by_id["d1"]], other[by_id["d1"]], other[by_id["d7"]]) == (8.0, 0.5, 0.25)
    assert math.isnan(mine[by_id["d7"]])
    documents = map(json.loads, Path(data, "corpus.jsonl").read_text().splitlines())
    texts = {row["_id"]: row["text"] for row in documents}
    assert rows["q0"]["texts"] == [texts[doc_id] for doc_id in rows["q0"]["doc_ids"]]
    assert tables.read_manifest(cfg.output).quarantined == {"unknown id": 2, "no candidates": 1}


def test_a_run_of_another_collection_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "other.run").write_text("q0 Q0 x 1 1 mine\nq1 Q0 d1 1 1 mine")
    cfg = RetrieveConfig(collection(tmp_path / "beir"), f"{tmp_path}/out", run=f"{tmp_path}/other.run")
    with pytest.raises(
        RradError, match="1 of its 2 lines are of ids that the collection does not have: document 'x'"
    ):
        retrieve.run(cfg)


def test_packed_files_and_parquet_with_other_column_names_are_the_same_collection(tmp_path: Path) -> None:
    plain = Path(collection(tmp_path / "beir"))
    run = tmp_path / "mine.run"
    run.write_text("\n".join(f"q{n} Q0 d{n} 1 1 x" for n in range(20)))
    expected = rows_of(RetrieveConfig(str(plain), f"{tmp_path}/a", run=str(run)))
    packed, table = tmp_path / "packed", tmp_path / "table"
    packed.mkdir()
    for name in ("corpus.jsonl", "queries.jsonl"):
        (packed / f"{name}.gz").write_bytes(gzip.compress((plain / name).read_bytes()))
    assert rows_of(RetrieveConfig(str(packed), f"{tmp_path}/b", run=str(run))) == expected
    for kind in ("corpus", "queries"):
        rows = [json.loads(line) for line in (plain / f"{kind}.jsonl").read_text().splitlines()]
        (table / kind).mkdir(parents=True)
        for start in range(0, len(rows), 50):
            part = {"docid": [row["_id"] for row in rows[start : start + 50]]}
            part["body"] = [row["text"] for row in rows[start : start + 50]]
            pq.write_table(pa.table(part), table / kind / f"{start:05}.parquet")
    columns = {"id": "docid", "text": "body"}
    assert rows_of(RetrieveConfig(str(table), f"{tmp_path}/c", run=str(run), columns=columns)) == expected


def test_a_part_of_repeated_documents_alone_is_left_out(
    searched: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that holds only documents of another, as of a crawl done twice, ended the run by a KeyError."""
    without_ray(monkeypatch, 3)
    whole = rows_of(RetrieveConfig(output=f"{tmp_path}/whole", **searched))
    corpus = Path(searched["data"], "corpus.jsonl")
    lines = corpus.read_text().splitlines()
    corpus.unlink()
    (corpus.parent / "corpus").mkdir()
    for name, some in {"a": lines, "b": lines[:30], "c": lines[30:33]}.items():
        (corpus.parent / "corpus" / f"{name}.jsonl").write_text("\n".join(some))
    for documents in (10, 40):
        output = f"{tmp_path}/again-{documents}"
        again = RetrieveConfig(output=output, part_documents=documents, **searched, max_quarantined=0.5)
        assert rows_of(again) == whole
        assert tables.read_manifest(output).quarantined["duplicate id"] == 33


def test_a_run_without_a_line_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.run").write_text("\n")
    cfg = RetrieveConfig(collection(tmp_path / "beir"), f"{tmp_path}/out", run=f"{tmp_path}/empty.run")
    with pytest.raises(RradError, match="is an empty run; write each line as"):
        retrieve.run(cfg)


def test_collected_queries_stand_in_place_of_the_collections_own(searched: dict[str, Any], tmp_path: Path) -> None:
    asked = [
        {"query_id": "n1", "query": "w1 w2", "split": "test", "qrel_ids": ["d3"], "qrel_grades": [2]},
        {"query_id": "n2", "query": "w3 w4 w5", "split": "unlabelled", "qrel_ids": [], "qrel_grades": []},
    ]
    out = tables.Output("collect", RetrieveConfig("", f"{tmp_path}/asked"), CollectedQuery, {})
    out.write_all(asked, 10)
    Path(searched["data"], "queries.jsonl").unlink()
    searched |= {"query_vectors": "", "vectors": "", "dense_depth": 0}
    rows = rows_of(RetrieveConfig(output=f"{tmp_path}/out", collected=out.commit(), **searched))
    assert [{key: row[key] for key in asked[0]} for row in rows] == asked
    assert all(row["doc_ids"] for row in rows)


def test_an_index_whose_lists_are_all_met_finds_the_exact_candidates(
    searched: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch, 0)
    cut: dict[str, Any] = {"part_documents": 40, "block_queries": 8}
    whole = rows_of(RetrieveConfig(output=f"{tmp_path}/whole", **searched, **cut))
    index = {"probes": 5, "lists": 5}
    assert rows_of(RetrieveConfig(output=f"{tmp_path}/index", index=index, **searched, **cut)) == whole
    facts = tables.lineage_of(f"{tmp_path}/index").first_stage
    assert facts is not None
    assert facts.index == {"probes": 5, "lists": 5, "queries": 20, "depth": 4, "recall": 1.0}


def test_the_recall_of_an_index_is_that_of_its_candidates_counted_by_hand(
    searched: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_ray(monkeypatch, 0)
    options = {**searched, "part_documents": 40, "block_queries": 8, "bm25_depth": 0}
    whole = rows_of(RetrieveConfig(output=f"{tmp_path}/whole", **options))
    rows = rows_of(RetrieveConfig(output=f"{tmp_path}/index", index={"probes": 1}, **options))
    exact = {(row["query_id"], doc_id) for row in whole for doc_id in row["doc_ids"]}
    scores, known = (
        {(row["query_id"], doc_id): s for row in each for doc_id, s in zip(row["doc_ids"], row["source_scores"][1])}
        for each in (whole, rows)
    )
    assert all(scores[pair] == known[pair] for pair in exact & known.keys()), "scores of an index are the exact ones"
    facts = tables.lineage_of(f"{tmp_path}/index").first_stage
    assert facts is not None
    assert facts.index is not None
    assert facts.index["recall"] == len(exact & known.keys()) / len(exact) < 1
    assert f"recall@4 {facts.index['recall']:.3f}" in capsys.readouterr().out


def test_a_sample_of_the_queries_measures_the_index(
    searched: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch, 0)
    cfg = RetrieveConfig(output=f"{tmp_path}/index", index={"probes": 1, "sample": 3}, block_queries=8, **searched)
    retrieve.run(cfg)
    facts = tables.lineage_of(cfg.output).first_stage
    assert facts is not None
    assert facts.index is not None
    assert facts.index["queries"] == 3


@pytest.mark.parametrize("steps", [20, 30])
def test_a_run_with_an_index_that_ends_at_any_step_goes_on(
    steps: int, searched: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {**searched, "part_documents": 16, "block_queries": 4, "index": {"probes": 2}}
    with monkeypatch.context() as patch:
        without_ray(patch, 1)
        whole = rows_of(RetrieveConfig(output=f"{tmp_path}/whole", **options))
    cfg = RetrieveConfig(output=f"{tmp_path}/out", **options)
    with monkeypatch.context() as patch:
        without_ray(patch, steps, steps)
        with pytest.raises(KeyboardInterrupt):
            retrieve.run(cfg)
    kept = tables.data_files(tables.join(cfg.output, "work", "lists"), (".faiss",))
    trained: list[int] = []

    def counted(*given: Any) -> bytes:
        trained.append(1)
        return approximate.trained_lists(*given)

    monkeypatch.setattr(searching, "trained_lists", counted)
    without_ray(monkeypatch, steps)
    assert rows_of(cfg) == whole
    assert len(trained) == 6 - len(kept), "lists were trained again"
    first, second = (tables.lineage_of(f"{tmp_path}/{name}").first_stage for name in ("whole", "out"))
    assert first is not None
    assert second is not None
    assert first.index == second.index


def test_an_index_without_faiss_is_an_error_that_names_the_extra(
    searched: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(RradError, match=r"rrad-ray\[faiss\]"):
        retrieve.run(RetrieveConfig(output=f"{tmp_path}/out", index={"probes": 1}, **searched))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"index": {"probes": 9, "lists": 8}}, "probes"),
        ({"index": {"probes": 1}, "dense_depth": 0}, "index.probes"),
        ({"index": {"probes": 1}, "run": "a.run"}, "index.probes"),
    ],
)
def test_an_index_that_cannot_serve_is_a_config_error(change: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        RetrieveConfig(data="data", output="out", **change)


def test_a_part_that_has_gone_since_a_run_was_killed_is_joined_again(
    searched: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows_of(RetrieveConfig(output=f"{tmp_path}/whole", **searched))
    cfg = RetrieveConfig(output=f"{tmp_path}/out", block_queries=4, **searched)
    kill_before_the_manifest(monkeypatch, lambda: retrieve.run(cfg))
    tables.remove(f"{cfg.output}/{tables.part_name(2)}")
    assert rows_of(cfg) == whole


def encoders_of(uri: str) -> dict[str, Any]:
    first = tables.lineage_of(uri).first_stage
    assert first is not None
    return dict(first.encoders)


def test_a_source_by_vectors_of_the_users_own_has_no_encoder_that_an_endpoint_could_ask_in_their_place(
    searched: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch, 1)
    both = retrieve.run(RetrieveConfig(output=f"{tmp_path}/both", **searched))
    first = tables.lineage_of(both).first_stage
    assert first is not None
    assert (list(first.sources), first.encoders) == (["bm25"], {}), "nobody knows what a search by them costs"
    searched["vectors"] = own_vectors(tmp_path / "vectors.parquet", [f"d{number}" for number in range(89)], 1, 16)
    documents = retrieve.run(RetrieveConfig(output=f"{tmp_path}/documents", **{**searched, "query_vectors": ""}))
    assert encoders_of(documents) == {}
    kept: dict[str, Any] = {**searched, "query_vectors": "", "vectors": f"{tmp_path}/kept"}
    assert list(encoders_of(retrieve.run(RetrieveConfig(output=f"{tmp_path}/kept-first", **kept)))) == ["dense"]
    assert list(encoders_of(retrieve.run(RetrieveConfig(output=f"{tmp_path}/kept-again", **kept)))) == ["dense"]


def test_kept_vectors_of_a_model_that_was_trained_anew_in_place_are_refused(
    searched: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch, 1)
    kept: dict[str, Any] = {**searched, "query_vectors": "", "vectors": f"{tmp_path}/kept"}
    retrieve.run(RetrieveConfig(output=f"{tmp_path}/first", **kept))
    mark = tmp_path / "kept" / "vectors.json"
    content = json.loads(mark.read_text())
    tiny.save(tmp_path / "model", "Bert", "Model", initializer_range=0.5)  # other weights in the same folder
    refused = r"kept: holds vectors of other data or settings \(weights='.*' -> '.*'\); name another folder"
    with pytest.raises(RradError, match=refused):
        retrieve.run(RetrieveConfig(output=f"{tmp_path}/second", **kept))
    del content["weights"]  # as an earlier version wrote it
    mark.write_text(json.dumps(content))
    retrieve.run(RetrieveConfig(output=f"{tmp_path}/third", **kept))
