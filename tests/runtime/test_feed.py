"""The feed of training: which rows, which columns, in what order; from a folder and from S3, through Ray Data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray

from rrad_ray import tables
from rrad_ray.config import SelectConfig, TrainConfig
from rrad_ray.errors import RradError
from rrad_ray.rows import Labels, TrainingRow
from rrad_ray.runtime import cluster, feed
from rrad_ray.training import targets
from rrad_ray.training.rank_task import RankBatches
from rrad_ray.training.stream import ShuffledRows
from tests.fixtures import row_of

pytestmark = pytest.mark.ray

SPLITS = ("train", "unlabelled", "dev", "test")
LEARNT = ("train", "unlabelled")


def label_row(number: int) -> dict[str, Any]:
    """Every fourth one is a dev query, and every eighth a judged one."""
    judged = {"qrel_ids": [f"q{number}-1"], "qrel_grades": [number // 4 % 2]}
    label = {"targets": [float(number), 1.0], "missing": [False] * 2, "confidence": [1.0] * 2, "reasons": []}
    row = row_of(f"q{number}", [f"text {number}", "other"])
    judged["query"] = f"add {number} numbers"
    return {**row, **label, **judged, "split": SPLITS[number % 4], "parse_status": ["ok"]}


def table(uri: str, count: int, rows_per_part: int = 8) -> str:
    out = tables.Output("label", SelectConfig(input="", output=uri), Labels, {})
    out.write_all([label_row(number) for number in range(count)], rows_per_part)
    return out.commit()


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder to write to. A local cluster has the credentials with which it was started, so S3 gets a new one."""
    if request.param == "local":
        return str(tmp_path / "labels")
    s3_uri = str(request.getfixturevalue("s3_uri"))
    ray.shutdown()
    return s3_uri


def steps(
    labels: feed.LabelFeed, epoch: int, first: int = 0, *, rank: int = 0, num_workers: int = 1
) -> list[list[str]]:
    """Return the query ids of a worker's batches, from a stream that holds 12 rows."""
    cfg = TrainConfig("", "", queries_per_step=3)
    data = RankBatches(ShuffledRows(labels.counts, labels.read, seed=0, shuffle_rows=12), cfg, rank, num_workers)
    return [[row["query_id"] for row in batch] for batch in data(epoch, first)]


def test_two_epochs_over_several_parts_see_every_training_row_once_each(uri: str) -> None:
    cluster.start_ray()
    labels = feed.index_labels([table(uri, 96)], LEARNT, 60, 0)
    assert labels.counts == (4,) * 12, "of 8 rows in each of 12 parts, half are of these splits"
    everything = sorted(f"q{number}" for number in range(96) if number % 4 < 2)
    one, two = ([steps(labels, epoch, rank=rank, num_workers=2) for rank in (0, 1)] for epoch in (0, 1))
    for epoch in (one, two):
        assert sorted(name for worker in epoch for batch in worker for name in batch) == everything
        assert [len(worker) for worker in epoch] == [8, 8], "every worker takes as many steps"
    assert one != two
    assert steps(labels, 1, 5, rank=1, num_workers=2) == two[1][5:], "a run that is resumed goes on as it would have"


def test_rows_that_are_of_no_use_are_neither_counted_nor_brought_and_the_others_are_prepared(tmp_path: Path) -> None:
    """q1 alone says nothing: both of its targets are 1."""
    cluster.start_ray()
    uri, prepare = table(f"{tmp_path}/labels", 96), targets.Prepare("query", pointwise=False)
    visited: list[tuple[str, list[float], targets.SkipReason | None]] = []
    plain = feed.index_labels([uri], LEARNT, 60, 0, prepare, lambda *row: visited.append(row))
    assert plain.counts == (3, *(4,) * 11)
    assert [query_id for query_id, _, _ in visited] == [f"q{number}" for number in range(96) if number % 4 < 2]
    assert {query_id: reason for query_id, _, reason in visited if reason} == {"q1": targets.SkipReason.NO_PREFERENCE}
    assert visited[2][1] == [4.0, 1.0]
    labels = dataclasses.replace(plain, prepare=prepare)
    seen = [name for batch in steps(labels, 0) for name in batch]
    useful = [f"q{number}" for number in range(96) if number % 4 < 2 and number != 1]
    assert len(seen) == 45, "15 steps of 3; 2 rows are left over"
    assert set(seen) < set(useful)
    rows = labels.read([(0, 0), (0, 1), (0, 2)])
    assert [row["query_id"] for row in rows] == ["q0", "q4", "q5"]
    assert [row["targets"] for row in rows] == [[-1.0, 1.0], [1.0, -1.0], [1.0, -1.0]]


def test_a_row_with_more_or_fewer_targets_than_documents_is_named_and_not_brought(tmp_path: Path) -> None:
    """Its targets would be those of other documents."""
    out = tables.Output("label", SelectConfig(input="", output=f"{tmp_path}/labels"), Labels, {})
    short, long = label_row(1) | {"targets": [2.0]}, label_row(4) | {"targets": [3.0, 2.0, 1.0]}
    out.write_all([label_row(0), short, long, label_row(5)], 4)
    visited: dict[str, targets.SkipReason | None] = {}
    rules = targets.Prepare("none", pointwise=True)
    labels = feed.index_labels(
        [out.commit()], LEARNT, 60, 0, rules, lambda query_id, _, reason: visited.update({query_id: reason})
    )
    ragged = targets.SkipReason.RAGGED
    assert (labels.counts, visited) == ((2,), {"q0": None, "q1": ragged, "q4": ragged, "q5": None})
    rows = dataclasses.replace(labels, prepare=rules).read([(0, 0), (0, 1)])
    assert [row["query_id"] for row in rows] == ["q0", "q5"]


def test_a_part_that_is_gone_is_named(tmp_path: Path) -> None:
    cluster.start_ray()
    labels = feed.index_labels([table(f"{tmp_path}/labels", 96)], LEARNT, 60, 0)
    Path(*labels.parts[7]).unlink()
    with pytest.raises(RradError, match=r"part-00007.parquet: .*; check that the place exists"):
        steps(labels, 0)


def test_only_what_training_needs_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns_read: list[set[str]] = []
    real = pq.ParquetFile.read

    def spied(self: pq.ParquetFile, columns: Sequence[str] | None = None, **more: Any) -> Any:
        columns_read.append(set(columns or ["all"]))
        return real(self, columns=columns, **more)

    monkeypatch.setattr(pq.ParquetFile, "read", spied)
    labels = feed.index_labels([table(f"{tmp_path}/labels", 64)], LEARNT, 3, 0)
    small = {"query_id", "split", "qrel_grades", "doc_ids", "targets", "missing"}
    assert set().union(*columns_read) == small, "no text is read to count rows and to find dev queries"
    rows = feed.read_rows(*labels.parts[1], LEARNT, [1, 3], TrainingRow)
    assert rows.column_names == list(TrainingRow.__annotations__)
    assert rows["query_id"].to_pylist() == ["q9", "q13"]


def test_the_dev_rows_are_judged_ones_drawn_by_the_seed(uri: str) -> None:
    table(uri, 96)
    labels = feed.index_labels([uri], LEARNT, 5, 0)
    rows = labels.dev_rows()
    assert len({row["query_id"] for row in rows}) == 5
    assert all(row["split"] == "dev" and row["qrel_grades"] == [1] for row in rows)
    assert set(rows[0]) == set(Labels.__annotations__)
    again, other = (feed.index_labels([uri], LEARNT, 5, seed).dev for seed in (0, 1))
    assert again == labels.dev != other
    assert len(feed.index_labels([uri], LEARNT, 60, 0).dev) == 12, "all there are"


def test_two_tables_are_one_set_and_the_dev_rows_are_those_of_the_first(tmp_path: Path) -> None:
    one, two = table(f"{tmp_path}/one", 32), table(f"{tmp_path}/two", 16)
    labels = feed.index_labels([one, two], LEARNT, 60, 0)
    assert labels.counts == (4,) * 6
    assert labels.dev
    assert {labels.parts[part][0] for part, _ in labels.dev} == {one}
    refs = [(part, index) for part in range(6) for index in range(4)]
    names = [f"q{number}" for count in (32, 16) for number in range(count) if number % 4 < 2]
    assert [row["query_id"] for row in labels.read(refs)] == names


def test_a_query_that_another_table_measures_is_not_learnt_from(tmp_path: Path) -> None:
    """The second table's train query q0 asks what the first one's dev query q2 asks, and its q4 what its own q6 does:
    `label` has looked for that."""
    cluster.start_ray()
    rows = [label_row(number) for number in range(8)]
    rows[0]["query"], rows[4]["query"] = "Add 2  numbers?", "add ten numbers"
    rows[6]["query"] = "add ten numbers"
    one, two = table(f"{tmp_path}/one", 8), f"{tmp_path}/two"
    out = tables.Output("label", SelectConfig(input="", output=two), Labels, {})
    out.write_all(rows, 8)
    out.commit()
    skipped = list[tuple[str, str]]()

    def visit(query_id: str, targets: list[float], reason: targets.SkipReason | None) -> None:
        if reason:
            skipped.append((query_id, reason.value))

    rules = targets.Prepare("none", pointwise=True)
    labels = feed.index_labels([one, two], LEARNT, 60, 0, rules, visit)
    labels = dataclasses.replace(labels, prepare=rules)
    assert skipped == [("q0", "text of a dev or test query of another table")]
    assert labels.counts == (4, 3)
    learnt = ["q0", "q1", "q4", "q5", "q1", "q4", "q5"]
    assert [row["query_id"] for row in labels.read([(0, n) for n in range(4)] + [(1, n) for n in range(3)])] == learnt
    some = [(1, 2), (0, 3), (1, 0)]  # through Ray Data
    assert [row["query_id"] for row in labels.read(some)] == ["q5", "q5", "q1"]


def test_a_table_without_a_column_is_named_before_training(tmp_path: Path) -> None:
    uri = table(f"{tmp_path}/labels", 8)
    part = Path(uri, tables.part_name(0))
    pq.write_table(pq.read_table(part).drop_columns(["targets"]), part)
    with pytest.raises(RradError, match=r"part-00000.parquet: has .* bytes, and .* in the manifest"):
        feed.index_labels([uri], LEARNT, 5, 0)
    manifest = Path(uri, "manifest.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"parts": None}))  # by another program
    with pytest.raises(RradError, match=r"part-00000.*has no column 'targets'"):
        feed.index_labels([uri], LEARNT, 5, 0)
    with pytest.raises(RradError, match="no manifest"):
        feed.index_labels([f"{tmp_path}/nothing"], LEARNT, 5, 0)
