"""Candidates from other tools' files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrad_ray.data import candidate_files
from rrad_ray.errors import RradError

RANKLLM = {
    "query": {"text": "sort a list", "qid": 7},
    "candidates": [
        {"docid": "b", "score": 1.5, "doc": {"title": "Reversing", "contents": "reverses a list"}},
        {"docid": "a", "score": 2.5, "doc": "sorts a list in place"},
    ],
}


def read(uri: str, **qrels: str) -> tuple[list[dict[str, Any]], list[tuple[str, str, str]]]:
    rejected: list[tuple[str, str, str]] = []
    rows = list(candidate_files.read_candidates(uri, qrels, lambda *bad: rejected.append(bad)))
    return rows, rejected


@pytest.mark.parametrize("name", ["requests.jsonl", "requests.json", "requests.jsonl.gz"])
def test_rankllm_requests_come_best_first_with_titles_and_documents_of_either_kind(tmp_path: Path, name: str) -> None:
    text = json.dumps([RANKLLM]) if ".jsonl" not in name else json.dumps(RANKLLM) + "\n"
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    [row], rejected = read(f"{tmp_path}/{name}")
    assert not rejected
    assert (row["query_id"], row["query"], row["split"]) == ("7", "sort a list", "unlabelled")
    assert row["doc_ids"] == ["a", "b"]
    assert row["texts"] == ["sorts a list in place", "Reversing\nreverses a list"]
    assert row["scores"] == row["source_scores"][0] == [2.5, 1.5]


def test_rankllms_own_reader_takes_the_same_file(tmp_path: Path) -> None:
    from rank_llm import data

    item = {**RANKLLM, "candidates": [RANKLLM["candidates"][0]]}  # its reader wants objects, not strings
    (tmp_path / "one.jsonl").write_text(json.dumps(item))
    [theirs], [ours] = data.read_requests_from_file(f"{tmp_path}/one.jsonl"), read(f"{tmp_path}/one.jsonl")[0]
    assert str(theirs.query.qid) == ours["query_id"]
    assert [candidate.docid for candidate in theirs.candidates] == ours["doc_ids"]


def test_rankgpt_hits_are_candidates(tmp_path: Path) -> None:
    hits = [{"content": f"text {n}", "qid": "q", "docid": n, "rank": n + 1, "score": 9.0 - n} for n in range(3)]
    (tmp_path / "hits.jsonl").write_text(json.dumps({"query": "a need", "hits": hits}))
    [row], _ = read(f"{tmp_path}/hits.jsonl")
    assert (row["query_id"], row["doc_ids"], row["texts"][0]) == ("q", ["0", "1", "2"], "text 0")


def test_where_one_document_has_no_score_their_places_speak_for_all(tmp_path: Path) -> None:
    documents = [
        {"docid": "a", "doc": "x", "score": 1},
        {"docid": "b", "doc": "y"},
        {"docid": "c", "doc": "z", "score": 9},
    ]
    (tmp_path / "x.jsonl").write_text(json.dumps({"query": {"qid": "q", "text": "need"}, "candidates": documents}))
    [row], _ = read(f"{tmp_path}/x.jsonl")
    assert (row["doc_ids"], row["scores"]) == (["a", "b", "c"], [0.0, -1.0, -2.0])


def test_ms_marcos_top1000_is_grouped_wherever_its_lines_stand_and_keeps_their_order(tmp_path: Path) -> None:
    lines = ["1\t10\tfirst\tten", "2\t10\tsecond\tten", "1\t11\tfirst\televen", "broken line", "2\t9\tsecond\tnine"]
    (tmp_path / "top1000.dev.tsv").write_text("\n".join(lines))
    (tmp_path / "qrels").write_text("1 0 11 1\n")
    (first, second), rejected = read(f"{tmp_path}/top1000.dev.tsv", dev=f"{tmp_path}/qrels")
    assert (first["doc_ids"], first["texts"], first["split"]) == (["10", "11"], ["ten", "eleven"], "dev")
    assert (first["qrel_ids"], first["qrel_grades"]) == (["11"], [1])
    assert (second["doc_ids"], second["split"]) == (["10", "9"], "unlabelled")
    [(identity, reason, _)] = rejected
    assert (identity, reason.partition(":")[0]) == ("top1000.dev.tsv:4", "malformed line")


def test_a_line_whose_id_has_another_text_above_is_handed_over(tmp_path: Path) -> None:
    """Passages whose ids count within each query would otherwise be those of the first query."""
    lines = ["1\t1\tapple recipe\tapple pie", "2\t1\tcar repair\tengine manual", "1\t2\tcar repair\ttyre change"]
    (tmp_path / "top.tsv").write_text("\n".join([*lines, "2\t3\tcar repair\ttyre change"]))
    rows, rejected = read(f"{tmp_path}/top.tsv")
    assert [(row["query"], row["texts"]) for row in rows] == [
        ("apple recipe", ["apple pie"]),
        ("car repair", ["tyre change"]),
    ]
    assert [reason for _, reason, _ in rejected] == [
        "other text: top.tsv:2 gives passage '1' another text than a line above, which stays",
        "other text: top.tsv:3 gives query '1' another text than a line above, which stays",
    ]


def test_what_cannot_be_used_is_handed_over_with_its_reason_and_the_rest_stays(tmp_path: Path) -> None:
    documents = [{"docid": "a", "doc": "text"}, {"docid": "a", "doc": "again"}, {"docid": "b", "doc": " "}]
    items = [
        json.dumps({"query": {"qid": "good", "text": "need"}, "candidates": documents}),
        json.dumps({"query": {"qid": "good", "text": "again"}, "candidates": documents[:1]}),
        json.dumps({"query": {"qid": "empty", "text": "need"}, "candidates": []}),
        json.dumps({"query": {"qid": "mute", "text": " "}, "candidates": documents[:1]}),
        json.dumps({"query": {"text": "nameless"}, "candidates": documents[:1]}),
        json.dumps({"passages": []}),
        "{not json",
        '{"query": {"qid": "half", "text": "\\ud800"}, "candidates": []}',
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(items))
    rows, rejected = read(f"{tmp_path}/x.jsonl")
    assert [(row["query_id"], row["doc_ids"]) for row in rows] == [("good", ["a"])]
    assert [(identity, reason.partition(":")[0]) for identity, reason, _ in rejected] == [
        ("good", "duplicate id"),
        ("good", "empty text"),
        ("good", "duplicate id"),
        ("empty", "no candidates"),
        ("mute", "empty text"),
        ("x.jsonl:5", "missing field"),
        ("x.jsonl:6", "missing field"),
        ("x.jsonl:7", "malformed JSON"),
        ("half", "malformed JSON"),
    ]


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.floats(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(["query", "qid", "text", "candidates", "hits", "docid", "doc", "score", "content"]), x
            )
        ),
    )
)
def test_any_json_is_read_or_handed_over_never_an_exception(item: Any) -> None:
    rejected: list[str] = []
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "x.jsonl"
        place.write_text(json.dumps(RANKLLM) + "\n" + json.dumps(item) + "\n")
        rows = list(candidate_files.read_candidates(str(place), {}, lambda *bad: rejected.append(bad[1])))
    assert rows[0]["query_id"] == "7"
    assert len(rows) + len(rejected) >= 2
    for row in rows:
        assert len(row["doc_ids"]) == len(set(row["doc_ids"])) == len(row["texts"]) == len(row["scores"]) > 0


@pytest.mark.parametrize(
    ("name", "text"), [("none.jsonl", None), ("bad.json", "{"), ("bad.json", "{}"), ("e.tsv", "\n")]
)
def test_a_file_of_no_use_is_an_error_that_says_what_to_write(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(RradError, match="RankLLM requests or RankGPT hits"):
        read(f"{tmp_path}/{name}")


TOP = "1\t10\tfirst\tten\n"


@pytest.mark.parametrize(
    "header",
    [
        "qid\tpid\tquery\tpassage",
        "query_id\tpassage_id\tquery\ttext",
        "id\tid\tquery\tpassage",
        "QID\tDocID\tQuery\tDoc",
        "\ufeffqid\tpid\tq\tp",
    ],
)
def test_a_header_line_of_ms_marcos_file_is_no_query_and_a_mark_makes_no_second_one(
    tmp_path: Path, header: str
) -> None:
    (tmp_path / "top.tsv").write_text(f"{header}\n{TOP}1\t11\tfirst\televen\n", encoding="utf-8")
    (tmp_path / "bom.tsv").write_text(f"\ufeff{TOP}1\t11\tfirst\televen\n", encoding="utf-8")
    for name in ("top.tsv", "bom.tsv"):
        [row], rejected = read(f"{tmp_path}/{name}")
        assert (row["query_id"], row["doc_ids"], rejected) == ("1", ["10", "11"], [])


def test_latin_1_in_ms_marcos_file_is_an_error_that_names_line_and_byte(tmp_path: Path) -> None:
    (tmp_path / "top.tsv").write_bytes(TOP.encode() + "1\t11\tfirst\tgröße\n".encode("latin-1"))
    with pytest.raises(RradError, match=r"top\.tsv:2: no UTF-8 text: byte 14 of the line is 0xF6"):
        read(f"{tmp_path}/top.tsv")


@pytest.mark.parametrize("name", ["X.JSONL", "x.ndjson", "x.NDJSON.GZ", "x.Json", "x.TSV"])
def test_an_ending_in_capitals_or_ndjson_is_what_it_says(tmp_path: Path, name: str) -> None:
    line = TOP if "tsv" in name.lower() else json.dumps([RANKLLM] if name == "x.Json" else RANKLLM)
    (tmp_path / name).write_bytes(gzip.compress(line.encode()) if name.endswith("GZ") else line.encode())
    assert candidate_files.is_candidates(f"{tmp_path}/{name}")
    assert len(read(f"{tmp_path}/{name}")[0]) == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"query": "q", "hits": [{"docid": 1, "content": "x"}]}', "missing field: x.jsonl:1 has no query id"),
        (
            '{"query": "q", "hits": [{"qid": 1.5, "docid": 1, "content": "x"}]}',
            "missing field: x.jsonl:1 has no query",
        ),
        ('{"query": "", "hits": [{"qid": 1, "docid": 1, "content": "x"}]}', "empty text: the query is empty"),
        ("{", "malformed JSON: x.jsonl:1 cannot be read"),
    ],
)
def test_where_no_query_can_be_read_the_first_reason_is_told(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "x.jsonl").write_text(f"{line}\n[]\n")
    with pytest.raises(RradError, match=f"holds no query that can be read; its first bad row: {says}"):
        read(f"{tmp_path}/x.jsonl")


HUGE = "9" * 400


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("x.jsonl", '{"query": {"qid": "\\ud800", "text": "need"}, "candidates": [{"docid": "a", "doc": "x"}]}'),
        ("x.jsonl", '{"query": {"qid": "q", "text": "need"}, "candidates": [{"docid": "\\ud800", "doc": "x"}]}'),
        (
            "x.jsonl",
            f'{{"query": {{"qid": "q", "text": "n"}}, "candidates": [{{"docid": 1, "doc": "x", "score": {HUGE}}}]}}',
        ),
        (
            "x.jsonl",
            f'{{"query": {{"qid": 1, "text": "n"}}, "candidates": [{{"docid": 1, "doc": "x", "score": {HUGE}.5}}]}}',
        ),
        ("x.jsonl", f'{{"query": "n", "hits": [{{"qid": 1, "docid": 1, "content": "x", "score": "-{HUGE}"}}]}}'),
        ("x.jsonl", f'{{"query": {{"qid": {"9" * 5000}, "text": "n"}}, "candidates": []}}'),
        ("x.json", '{"query": {"qid": "\\udfff", "text": "need"}, "candidates": [{"docid": "a", "doc": "x"}]}'),
        ("x.tsv", "2\t1\t\ud800\tpassage"),
    ],
)
def test_lone_surrogates_and_numbers_of_400_digits_are_handed_over(tmp_path: Path, name: str, bad: str) -> None:
    good = TOP.strip() if name == "x.tsv" else json.dumps(RANKLLM)
    text = f"[{good}, {bad}]" if name == "x.json" else f"{good}\n{bad}\n"
    (tmp_path / name).write_bytes(text.encode(errors="surrogatepass"))
    rows, rejected = read(f"{tmp_path}/{name}")
    assert len(rows) == len(rejected) == 1
    assert rejected[0][1].partition(":")[0] in ("malformed JSON", "malformed line")


def test_a_folder_as_spark_writes_it_is_all_its_data_files(tmp_path: Path) -> None:
    folder = tmp_path / "top.tsv"
    folder.mkdir()
    (folder / "part-1.tsv").write_text("1\t11\tfirst\televen\n")
    (folder / "part-0.tsv").write_text(TOP)
    (folder / "_part-2.tsv").write_text("2\t11\tsecond\televen\n")
    [row], rejected = read(str(folder))
    assert (row["doc_ids"], rejected) == (["10", "11"], [])
    (folder / "split=dev").mkdir()
    (folder / "split=dev" / "part.tsv").write_text(TOP)
    with pytest.raises(RradError, match="partition split=dev cannot be used"):
        read(str(folder))


@pytest.mark.parametrize(
    "lines",
    [
        "qid\tquery\tpid\tpassage\n1\tfirst\t10\tten\n",
        "passage\tpid\tqid\tquery\nten\t10\t1\tfirst\n",
        "\tqid\tpid\tquery\tpassage\n0\t1\t10\tfirst\tten\n",
        "qid\tquery\tpid\tbody of it\n1\tfirst\t10\tten\n",
    ],
)
def test_columns_of_ms_marcos_file_stand_where_its_header_says(tmp_path: Path, lines: str) -> None:
    (tmp_path / "top.tsv").write_text(lines)
    [row], rejected = read(f"{tmp_path}/top.tsv")
    assert (row["query_id"], row["query"], row["doc_ids"], row["texts"]) == ("1", "first", ["10"], ["ten"])
    assert not rejected


@pytest.mark.parametrize("header", ["qid\tqid\tquery\tpassage", "qid\tpid\ta\tb", "qid\tpid\tquery"])
def test_a_header_of_ms_marcos_file_that_leaves_columns_open_is_an_error(tmp_path: Path, header: str) -> None:
    (tmp_path / "top.tsv").write_text(f"{header}\n{TOP}")
    with pytest.raises(RradError, match=r"top\.tsv:1: its header .* does not say which column is the "):
        read(f"{tmp_path}/top.tsv")
