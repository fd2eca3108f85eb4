"""Other people's files: what is read, what is set aside and why, and which errors name the remedy."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrad_ray.data.beir import read_beir, read_beir_texts
from rrad_ray.data.collection import Collection, Query
from rrad_ray.data.reader import read_collection
from rrad_ray.data.trec import read_trec_run, write_trec_run
from rrad_ray.errors import RradError, in_stage

COSQA = Path(__file__).resolve().parents[3] / "shared" / "data" / "cosqa"
DOCS = [{"_id": "d1", "title": "Sums", "text": "add numbers"}, {"_id": "d2", "text": "sort a list"}]
QUERIES = [{"_id": "q1", "text": "how to add"}, {"_id": "q2", "text": "how to sort"}]


def write_beir(folder: Path, docs: list[Any], queries: list[Any], **qrels: str) -> str:
    """Rows that are not strings are written as JSON; qrels as they are."""
    folder.mkdir(exist_ok=True)
    for name, rows in (("corpus.jsonl", docs), ("queries.jsonl", queries)):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    for split, text in qrels.items():
        (folder / "qrels").mkdir(exist_ok=True)
        (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")
    return str(folder)


def test_a_beir_folder_is_read_with_titles_splits_and_grades(tmp_path: Path) -> None:
    uri = write_beir(tmp_path, DOCS, QUERIES, test="query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n")
    found = read_collection(uri)
    assert found.name == tmp_path.name
    assert found.corpus == {"d1": "Sums\nadd numbers", "d2": "sort a list"}
    assert found.queries == [
        Query("q1", "how to add", "test", {"d1": 2, "d2": 0}),
        Query("q2", "how to sort", "unlabelled", {}),
    ]
    assert found.rejected == []


def test_what_a_query_has_beside_its_text_is_not_read(tmp_path: Path) -> None:
    topic = {"_id": "q1", "title": 5, "text": "how to add"}
    assert read_beir(write_beir(tmp_path, DOCS, [json.dumps(topic)])).queries[0].text == "how to add"


def test_without_qrels_every_query_is_unlabelled(tmp_path: Path) -> None:
    assert {query.split for query in read_beir(write_beir(tmp_path, DOCS, QUERIES)).queries} == {"unlabelled"}


def test_the_qrels_header_is_optional_and_blank_lines_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    found = read_beir(write_beir(tmp_path, [*DOCS, "", "  "], QUERIES, train="\r\nq2\td2\t1\r\n\r\n"))
    assert found.queries[1] == Query("q2", "how to sort", "train", {"d2": 1})
    assert found.rejected == []


def test_a_query_in_several_qrels_files_takes_test_before_dev_before_train(tmp_path: Path) -> None:
    uri = write_beir(tmp_path, DOCS, QUERIES, train="q1\td1\t1\nq2\td1\t1\n", dev="q2\td2\t1\n", test="q1\td2\t1\n")
    found = read_beir(uri)
    assert [(query.split, query.judged) for query in found.queries] == [("test", {"d2": 1}), ("dev", {"d2": 1})]


def test_integer_ids_become_text(tmp_path: Path) -> None:
    found = read_beir(write_beir(tmp_path, [{"_id": 7, "text": "x"}], [{"_id": 1, "text": "y"}], test="1\t7\t1\n"))
    assert found.corpus == {"7": "x"}
    assert found.queries == [Query("1", "y", "test", {"7": 1})]


@pytest.mark.parametrize(
    ("row", "rejected_id", "reason"),
    [
        ("{not json", "corpus.jsonl:3", "malformed JSON: corpus.jsonl:3 "),
        ("[1, 2]", "corpus.jsonl:3", "malformed JSON: corpus.jsonl:3 is no JSON object but list"),
        ('{"_id": "d3", "text": "\\ud800"}', "corpus.jsonl:3", "malformed JSON: corpus.jsonl:3 "),
        (
            {"id": 1, "body": "x"},
            "corpus.jsonl:3",
            "missing field: corpus.jsonl:3 has no field '_id' (fields: id, body)",
        ),
        ({"_id": "d3", "body": "x"}, "d3", "missing field: corpus.jsonl:3 has no field 'text' (fields: _id, body)"),
        ({"_id": None, "text": "x"}, "corpus.jsonl:3", "missing field: corpus.jsonl:3 has no id in field '_id'"),
        ({"_id": "d3", "text": ["x"]}, "d3", "missing field: corpus.jsonl:3 has no text in field 'text' but list"),
        ({"_id": "d3", "title": " ", "text": ""}, "d3", "empty text: corpus.jsonl:3"),
        ({"_id": "d1", "text": "again"}, "d1", "duplicate id: corpus.jsonl:3"),
    ],
)
def test_a_bad_document_is_set_aside_with_its_reason(tmp_path: Path, row: Any, rejected_id: str, reason: str) -> None:
    found = read_beir(write_beir(tmp_path, [*DOCS, row], QUERIES))
    assert found.corpus == {"d1": "Sums\nadd numbers", "d2": "sort a list"}
    ((bad_id, bad_reason, content),) = found.rejected
    assert bad_id == rejected_id
    assert bad_reason.startswith(reason)
    assert content == (row if isinstance(row, str) else json.dumps(row))


def test_bytes_that_are_not_utf8_are_an_error_that_names_file_line_and_byte(tmp_path: Path) -> None:
    uri = write_beir(tmp_path, DOCS, QUERIES)
    with (tmp_path / "corpus.jsonl").open("ab") as file:
        file.write(b'{"_id": "d3", "text": "\xff\xfe"}\n')
    with pytest.raises(RradError, match=r"corpus\.jsonl:3: no UTF-8 text: byte 24 of the line is 0xFF"):
        read_beir(uri)


def test_a_query_with_blank_text_is_set_aside(tmp_path: Path) -> None:
    found = read_beir(write_beir(tmp_path, DOCS, [*QUERIES, {"_id": "q3", "title": "not read", "text": " "}]))
    assert [(bad_id, reason.split(":")[0]) for bad_id, reason, _ in found.rejected] == [("q3", "empty text")]
    assert [query.query_id for query in found.queries] == ["q1", "q2"]


@pytest.mark.parametrize(
    ("line", "rejected_id", "reason"),
    [
        ("q9\td1\t1", "q9", "unknown id: qrels/test.tsv:2 query 'q9'"),
        ("q1\td9\t1", "q1", "unknown id: qrels/test.tsv:2 document 'd9'"),
        ("q1\td1\t2", "q1", "duplicate id: qrels/test.tsv:2"),
        ("q1 0 d1 1", "qrels/test.tsv:2", "malformed line: qrels/test.tsv:2"),
        ("q1\td2\t0.5", "qrels/test.tsv:2", "malformed line: qrels/test.tsv:2"),
        ("q1\td2\t1\textra", "qrels/test.tsv:2", "malformed line: qrels/test.tsv:2"),
    ],
)
def test_a_bad_judgment_is_set_aside_with_its_reason(
    tmp_path: Path, line: str, rejected_id: str, reason: str
) -> None:
    found = read_beir(write_beir(tmp_path, DOCS, QUERIES, test=f"q1\td1\t1\n{line}\n"))
    assert found.queries[0].judged == {"d1": 1}
    ((bad_id, bad_reason, content),) = found.rejected
    assert (bad_id, content) == (rejected_id, line)
    assert bad_reason.startswith(reason)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_a_missing_file_is_an_error_that_says_what_a_collection_is(tmp_path: Path, name: str) -> None:
    uri = write_beir(tmp_path, DOCS, QUERIES)
    (tmp_path / name).unlink()
    with pytest.raises(RradError, match=f"retrieve: .*{name}: no such file; .*BEIR folder"), in_stage("retrieve"):
        read_beir(uri)


def test_a_corpus_without_a_single_good_row_is_an_error_that_names_the_fields_found(tmp_path: Path) -> None:
    uri = write_beir(tmp_path, [{"id": "1", "body": "x"}, {"id": "2", "body": "y"}], QUERIES)
    with pytest.raises(RradError) as caught:
        read_beir(uri)
    assert caught.value.place == f"{uri}/corpus.jsonl:1"
    assert caught.value.problem.startswith("has no field '_id' (fields: id, body)")
    assert "_id" in caught.value.remedy


def test_an_empty_queries_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RradError, match=r"queries\.jsonl: holds no rows"):
        read_beir(write_beir(tmp_path, DOCS, []))


def test_a_folder_in_place_of_a_file_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    uri = write_beir(tmp_path, DOCS, QUERIES)
    (tmp_path / "corpus.jsonl").unlink()
    (tmp_path / "corpus.jsonl").mkdir()
    says = r"retrieve: .*corpus\.jsonl: is a folder, not a file; name a file"
    with pytest.raises(RradError, match=says), in_stage("retrieve"):
        read_beir(uri)


def test_a_title_column_that_no_document_has_is_an_error(tmp_path: Path) -> None:
    """All titles were lost without a word."""
    for kind in ("corpus", "queries"):
        pq.write_table(pa.table({"_id": ["1"], "text": ["x"], "headline": ["h"]}), tmp_path / f"{kind}.parquet")
    columns = {"id": "_id", "text": "text", "title": "headlin"}
    with pytest.raises(RradError, match=r"corpus\.parquet: .*headlin.*; name it, as in columns="):
        read_beir_texts(str(tmp_path), "corpus", lambda *_: None, columns)
    assert read_beir_texts(str(tmp_path), "queries", lambda *_: None, columns) == {"1": "x"}
    columns = columns | {"title": "headline"}
    assert read_beir_texts(str(tmp_path), "corpus", lambda *_: None, columns) == {"1": "h\nx"}


def test_a_path_that_says_the_split_of_queries_is_an_error_and_of_documents_none(tmp_path: Path) -> None:
    """The queries were read as unlabelled."""
    uri = write_beir(tmp_path, DOCS, QUERIES, test="q1\td1\t1\n")
    for kind, split in (("corpus", "train"), ("queries", "dev")):
        folder = tmp_path / kind / f"split={split}"
        folder.mkdir(parents=True)
        (tmp_path / f"{kind}.jsonl").rename(folder / "part-0.jsonl")
        if kind == "corpus":
            assert len(read_beir(uri).corpus) == 2
    with pytest.raises(RradError, match=r"partition split=dev cannot be used: qrels say .*; name its qrels qrels/"):
        read_beir(uri)


def test_a_file_of_another_kind_in_place_of_the_collection_is_an_error_that_names_the_kinds(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(RradError, match=r"a part of its path is a file.*; name a BEIR folder .*candidates \(\.json"):
        read_beir(f"{tmp_path}/x.csv")


def test_a_run_that_is_not_there_is_an_error_that_names_runs(tmp_path: Path) -> None:
    with pytest.raises(RradError, match=r"nope\.run: no such file; name a TREC run"):
        read_trec_run(f"{tmp_path}/nope.run")


# ---- runs ---------------------------------------------------------------------------------------------------


def test_a_run_is_sorted_by_score_and_ties_by_rank(tmp_path: Path) -> None:
    path = tmp_path / "run.txt"
    path.write_text("q1 Q0 a 3 1.0 me\nq1 Q0 b 2 1.0 me\n\nq1 Q0 c 9 2.5 me\nq2 Q0 a 1 -1e-3 me\n")
    assert read_trec_run(str(path)) == {"q1": [("c", 2.5), ("b", 1.0), ("a", 1.0)], "q2": [("a", -0.001)]}


@pytest.mark.parametrize(
    "line",
    [
        "q1 Q0 b 1 me",
        "q1 Q0 b one 0.5 me",
        "q1 Q0 b 1 high me",
        "q1 Q0 b 1 nan me",
        "q1 Q0 b c 1 0.5 me",
        "q1 Q0 b 1 2_5 me",
        "q1 Q0 b 1_0 0.5 me",
        "q1 Q0 b 1 ２５ me",
    ],
)
def test_a_malformed_run_line_is_an_error_with_its_number_and_remedy(tmp_path: Path, line: str) -> None:
    path = tmp_path / "run.txt"
    path.write_text(f"q1 Q0 a 1 0.5 me\n{line}\n")
    with pytest.raises(RradError, match=r"run\.txt:2: is no line of a run: .*; write each line as"):
        read_trec_run(str(path))


def test_of_a_run_only_the_queries_that_are_wanted_are_kept(tmp_path: Path) -> None:
    (tmp_path / "run.txt").write_text("q1 Q0 a 1 2 x\nother Q0 b 1 9 x\nq1 Q0 c 2 1 x\n")
    run = read_trec_run(f"{tmp_path}/run.txt", {"q1", "q2"})
    assert run == {"q1": [("a", 2.0), ("c", 1.0)]}


def test_a_document_that_a_run_ranks_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "run.txt"
    path.write_text("q1 Q0 a 1 0.5 me\nq1 Q0 a 2 0.4 me\n")
    with pytest.raises(RradError, match=r"run\.txt:2: ranks document 'a' again for query 'q1'"):
        read_trec_run(str(path))


@pytest.mark.parametrize(("doc_id", "score", "tag"), [("a b", 1.0, "me"), ("", 1.0, "me"), ("a", 1.0, "two words")])
def test_a_run_that_could_not_be_read_again_is_not_written(
    tmp_path: Path, doc_id: str, score: float, tag: str
) -> None:
    with pytest.raises(RradError, match="cannot be written"):
        write_trec_run(str(tmp_path / "run.txt"), {"q": [(doc_id, score)]}, tag)
    assert list(tmp_path.iterdir()) == []


# ---- whatever is written reads back -------------------------------------------------------------------------

IDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=6).filter(
    lambda text: text.split() == [text]
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)


@st.composite
def collections(draw: st.DrawFn) -> Collection:
    corpus = draw(st.dictionaries(IDS, TEXTS, min_size=1, max_size=5))
    queries = []
    for query_id, text in draw(st.dictionaries(IDS, TEXTS, min_size=1, max_size=5)).items():
        split = draw(st.sampled_from(["train", "dev", "test", "unlabelled"]))
        judged = draw(st.dictionaries(st.sampled_from(sorted(corpus)), st.integers(-2, 3), min_size=1))
        queries.append(Query(query_id, text, split, {} if split == "unlabelled" else judged))
    return Collection("any", corpus, queries)


@settings(max_examples=60)
@given(collections())
def test_any_collection_written_as_beir_reads_back_unchanged(collection: Collection) -> None:
    docs = [{"_id": doc_id, "text": text} for doc_id, text in collection.corpus.items()]
    queries = [{"_id": query.query_id, "text": query.text} for query in collection.queries]
    lines: dict[str, str] = {}  # a split without a judgment has no file
    for query in collection.queries:
        for doc_id, grade in query.judged.items():
            lines.setdefault(query.split, "query-id\tcorpus-id\tscore\n")
            lines[query.split] += f"{query.query_id}\t{doc_id}\t{grade}\n"
    with tempfile.TemporaryDirectory() as folder:
        found = read_beir(write_beir(Path(folder), docs, queries, **lines))
    assert (found.corpus, found.queries, found.rejected) == (collection.corpus, collection.queries, [])


SCORES = st.floats(allow_nan=False, allow_infinity=False)
RANKINGS = st.dictionaries(IDS, SCORES, min_size=1, max_size=5).map(
    lambda scores: sorted(scores.items(), key=lambda item: -item[1])
)


@settings(max_examples=60)
@given(st.dictionaries(IDS, RANKINGS, max_size=4))
def test_any_run_written_reads_back_unchanged(runs: dict[str, list[tuple[str, float]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_trec_run(f"{folder}/run.txt", runs, "me")
        assert read_trec_run(f"{folder}/run.txt") == runs


# ---- a real collection --------------------------------------------------------------------------------------


@pytest.mark.skipif(not COSQA.is_dir(), reason="shared/data/cosqa does not stand beside this repository")
def test_cosqa_is_read_whole() -> None:
    found = read_collection(str(COSQA))
    splits = [query.split for query in found.queries]
    assert [splits.count(split) for split in ("train", "dev", "test")] == [341, 159, 253]
    assert len(found.corpus) == 6267
    assert found.rejected == []
    assert all(query.judged for query in found.queries)
