"""Qrels of any dialect are read; what is no judgment is set aside, and no query that they name is unlabelled."""

from __future__ import annotations

import codecs
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rrad_ray.config import RetrieveConfig
from rrad_ray.data import candidate_files
from rrad_ray.data.beir import read_beir
from rrad_ray.data.qrels import read_qrels
from rrad_ray.errors import RradError
from rrad_ray.stages import retrieve
from tests.data.test_beir import DOCS, QUERIES, write_beir

HEADERS = {  # by whether they are TREC's
    False: ["", "query-id\tcorpus-id\tscore", "QueryID docno Rel", "id id score", "id\tdoc-id\tjudged"],
    True: ["", "query_id iteration doc_id rel", "qid\t0\tdocid\trating", "TOPIC ITERATION DOCUMENT# RELEVANCY"],
}
IDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=5).filter(
    lambda text: text.split() == [text]
)
GRADES = st.integers(-5, 2000)
ODD_CELLS = ["1", "2.5", "1.0", "9" * 400, "nan", "1_0", "０"]
FORMS = {"{}": str, "{}.0": float, "{}.": float, "+": str, "e": str}


def grade_text(grade: int, form: str) -> str:
    """A whole number as other programs write it."""
    if form == "+" and grade >= 0:
        return f"+{grade}"
    if form == "e" and grade % 10 == 0:
        return f"{grade // 10}e1"
    return form.format(grade) if "{" in form else str(grade)


def read(content: bytes) -> tuple[dict[str, dict[str, int]], set[str], list[tuple[str, str, str]]]:
    rejected: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test.tsv").write_bytes(content)
        judged = read_qrels(f"{folder}/test.tsv", lambda *bad: rejected.append(bad))
    return judged.grades, judged.named, rejected


@settings(max_examples=300)
@given(st.data())
def test_any_dialect_of_qrels_gives_the_judgments_that_were_written(data: st.DataObject) -> None:
    documents_of_a_query = st.dictionaries(IDS, GRADES, min_size=1, max_size=3)
    grades = data.draw(st.dictionaries(IDS, documents_of_a_query, min_size=1, max_size=4))
    trec, separator = data.draw(st.booleans()), data.draw(st.sampled_from(["\t", " ", "  ", " \t"]))
    lines = [data.draw(st.sampled_from(HEADERS[trec]))]
    for query_id, documents in grades.items():
        for doc_id, grade in documents.items():
            text = grade_text(grade, data.draw(st.sampled_from(sorted(FORMS))))
            cells = [query_id, *(["0"] if trec else []), doc_id, text]
            lines.append((separator if separator != " \t" or trec else "\t").join(cells))
    mark = data.draw(st.sampled_from([b"", codecs.BOM_UTF8]))
    end = data.draw(st.sampled_from(["\n", "\r\n", "\n\n", " \n"]))
    found, named, rejected = read(mark + end.join(lines).encode())
    assert (found, named, rejected) == (grades, set(grades), [])


@settings(max_examples=300)
@given(
    st.lists(st.lists(IDS | st.sampled_from(ODD_CELLS), min_size=1, max_size=6)),
    st.sampled_from(["\t", " "]),
)
@example([["q2", "d", "2.5"], ["q3"], ["q4", "0", "d", "1"]], "\t")
def test_whatever_the_lines_are_each_is_read_or_handed_over_and_its_query_is_named(
    lines: list[list[str]], separator: str
) -> None:
    texts = [separator.join(cells) for cells in [["q1", "d1", "1"], *lines]]
    found, named, rejected = read("\n".join(texts).encode())
    assert sum(map(len, found.values())) + len(rejected) == len(texts)
    assert named == {"q1"} | {cells[0] for cells in lines}
    assert found.keys() <= named
    for _, reason, content in rejected:
        assert reason.partition(":")[0] in ("malformed line", "duplicate id")
        assert content in texts


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("q1\td2\t2.5", "grade '2.5', which is no whole number"),
        ("q1\td2\t1e999", "grade '1e999'"),
        ("q1\td2\t" + "9" * 400, "grade '999"),
        ("q1\td2\tnan", "grade 'nan'"),
        ("q1\td2\t1_0", "grade '1_0'"),
        ("q1\td2\t", "2 columns, not 3"),
        ("q1\t\t1", "empty id"),
        ("q1\t0\td2\t1", "4 columns, not 3"),
        ("q1\td1\t0", "'d1' is judged above already"),
        ("q1\td2\ud800\t1", "lone surrogate"),
    ],
)
def test_a_line_that_is_no_judgment_is_handed_over_with_the_reason(line: str, problem: str) -> None:
    found, _, [(_, reason, content)] = read(f"q1\td1\t1\n{line}\n".encode(errors="surrogatepass"))
    assert found == {"q1": {"d1": 1}}
    assert problem in reason
    assert content == line
    assert "test.tsv:2" in reason


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "test.tsv: holds no line of qrels"),
        (b"\n\n", "test.tsv: holds no line of qrels"),
        (b"query-id\tcorpus-id\tscore\n", "test.tsv: holds no line of qrels"),
        (b"q1\td1\t2.5\nq2\td1\t0.5\n", "test.tsv:1: has the grade '2.5'.*; none of its 2 lines is a judgment"),
        (b"q1,d1,1\n", "test.tsv:1: has 1 columns"),
        (b"q\xe9\td1\t1\n", "test.tsv:1: no UTF-8 text: byte 2"),
        ("q1\td1\t1\n".encode("utf-16"), "test.tsv:1: no UTF-8 text"),
    ],
)
def test_a_file_without_one_judgment_is_an_error_that_names_its_first_line(content: bytes, says: str) -> None:
    with pytest.raises(RradError, match=says) as caught:
        read(content)
    assert caught.value.remedy


@pytest.mark.parametrize("line", ["q2\td1\t2.5", "q2\td9\t1", "q2\td1", "q2 0 d1 1", "q2\td1\thigh"])
def test_a_query_of_bad_lines_alone_keeps_its_split(tmp_path: Path, line: str) -> None:
    found = read_beir(write_beir(tmp_path, DOCS, QUERIES, test=f"q1\td1\t1.0\n{line}\n"))
    assert [(query.split, query.judged) for query in found.queries] == [("test", {"d1": 1}), ("test", {})]
    assert len(found.rejected) == 1


def test_beirs_qrels_of_another_split_are_an_error_that_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    uri = write_beir(tmp_path, DOCS, QUERIES, test="q1\td1\t1\n")
    for name in ("README.md", "_old.tsv", ".test.tsv.swp"):
        (tmp_path / "qrels" / name).write_text("no qrels")
    assert [query.split for query in read_beir(uri).queries] == ["test", "unlabelled"]
    for name in (
        "validation.tsv",
        "Test.tsv",
        "trian.tsv",
        "dev.txt",
        "test",
        "test.tsv.gz",
        "split=dev/x.tsv",
        "dev.tsv.bz2",
        "x.7z",
    ):
        if "/" in name:
            (tmp_path / "qrels" / "split=dev").mkdir()
        (tmp_path / "qrels" / name).write_text("q2\td1\t1\n")
        with pytest.raises(RradError) as caught:
            read_beir(uri)
        assert caught.value.place == f"{uri}/qrels/{name}"
        (tmp_path / "qrels" / name).unlink()


COLUMNS = {"query-id": "q1", "corpus-id": "d1", "score": "2", "": "7"}


@settings(max_examples=60)
@given(st.permutations(sorted(COLUMNS)), st.booleans())
def test_qrels_of_any_order_of_columns_are_read_by_their_header(names: list[str], index: bool) -> None:
    names = [name for name in names if name or index]
    lines = ["\t".join(names), "\t".join(COLUMNS[name] for name in names)]
    if names[-1] != "":
        assert read("\n".join(lines).encode()) == ({"q1": {"d1": 2}}, {"q1"}, [])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"qid\tqid\tscore\nq1\td1\t1\n", "test.tsv:1: its header .* which column is the query and document"),
        (b"text\tcorpus-id\tscore\nq1\td1\t1\n", "test.tsv:1: its header .* which column is the query"),
        (b"query-id corpus-id score\n0 q1 d1 1\n", "test.tsv:2: has 4 columns, not 3"),
    ],
)
def test_a_header_that_does_not_fit_is_an_error(content: bytes, says: str) -> None:
    with pytest.raises(RradError, match=says):
        read(content)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            "0\td1\t1\n1\td2\t1\n",
            "names no query of the collection: it has '0', the collection '00', and leading zeros",
        ),
        ("00\t1\t1\n", "no document of the collection: it has '1', the collection 'd1'"),
        ("00\tD2\t1\n", "no document .* 'D2', the collection 'd2', and capital letters are the difference"),
        ("01.0\td2\t1\n", "no query .* '01.0', the collection '01', and '.0' at the end are the difference"),
        ("d1\t00\t1\n", "it has documents where queries are read; name the columns"),
        ("x\td1\t1\n", "test.tsv: names no query of the collection: it has 'x', the collection '00'; use the qrels"),
    ],
)
def test_a_qrels_file_of_another_collection_is_an_error_that_shows_an_id_of_each_side(
    tmp_path: Path, lines: str, says: str
) -> None:
    queries = [{"_id": "00", "text": "how to add"}, {"_id": "01", "text": "how to sort"}]
    with pytest.raises(RradError, match=says):
        read_beir(write_beir(tmp_path, DOCS, queries, test=lines))


def test_unmatched_judgments_count_by_the_judgments_not_by_the_corpus(tmp_path: Path) -> None:
    uri = write_beir(tmp_path, DOCS, QUERIES, test="q1\td1\t1\nq1\td9\t1\nq9\td1\t1\nq8\td1\t1\n")
    [judged] = read_beir(uri).judged
    judged.check_matched(0.75)
    with pytest.raises(
        RradError, match=r"3 of its 4 judgments name .* lacks: 'q1' and 'd9'; .*max_quarantined=0\.75 "
    ):
        judged.check_matched(0.7)


def test_retrieve_refuses_a_large_share_of_unmatched_judgments_before_it_embeds(tmp_path: Path) -> None:
    uri = write_beir(tmp_path / "data", DOCS, QUERIES, test="q1\td1\t1\nq9\td1\t1\n")
    cfg = RetrieveConfig(data=uri, output=f"{tmp_path}/out", max_quarantined=0.4)
    with pytest.raises(RradError, match=r"retrieve: .*1 of its 2 judgments"):
        retrieve.run(cfg)


def test_qrels_that_are_a_file_are_an_error(tmp_path: Path) -> None:
    uri = write_beir(tmp_path, DOCS, QUERIES)
    (tmp_path / "qrels").write_text("q1\td1\t1\n")
    with pytest.raises(RradError, match="qrels: is a file, not the folder"):
        read_beir(uri)


def test_qrels_of_which_no_query_is_among_the_given_candidates_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "top.tsv").write_text("01\td1\tone\ttext\n")
    (tmp_path / "dev").write_text("1 0 d1 1\n")
    with pytest.raises(RradError, match=r"dev: names no query .* '1', the collection '01', and leading zeros"):
        list(candidate_files.read_candidates(f"{tmp_path}/top.tsv", {"dev": f"{tmp_path}/dev"}, lambda *bad: None))


def test_qrels_of_given_candidates_are_read_alike_and_test_comes_before_dev(tmp_path: Path) -> None:
    (tmp_path / "top.tsv").write_text("q1\td1\tone\ttext\nq2\td1\ttwo\ttext\n")
    (tmp_path / "dev").write_text("q1 0 d1 1.0\nq2 0 d1 2.5\n")
    (tmp_path / "test").write_text("query-id\tcorpus-id\tscore\nq1\td1\t3\n")
    rejected: list[tuple[str, str, str]] = []
    files = {"dev": f"{tmp_path}/dev", "test": f"{tmp_path}/test"}
    rows = list(candidate_files.read_candidates(f"{tmp_path}/top.tsv", files, lambda *bad: rejected.append(bad)))
    assert [(row["split"], row["qrel_grades"]) for row in rows] == [("test", [3]), ("dev", [])]
    assert [reason.partition(" has")[0] for _, reason, _ in rejected] == ["malformed line: dev:2"]
