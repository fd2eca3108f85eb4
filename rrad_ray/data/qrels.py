"""Qrels: TREC's four columns (`query_id iteration doc_id grade`) or BEIR's three (`query-id corpus-id score`).

Between them stand tabs or spaces. There may be a header, whose names then count. Files are local or on `s3://`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from rrad_ray.data.headers import (
    DOC_ID_WORDS,
    ID_WORDS,
    QUERY_ID_WORDS,
    column_words,
    count_known,
    named_columns,
    unclear_header,
)
from rrad_ray.data.text_files import BadRow, Reject, check_line, lines
from rrad_ray.errors import RradError

LABELLED = ("test", "dev", "train")  # a query that stands in several qrels files belongs to the first of these

QRELS_LINE = "write 'query_id 0 doc_id grade' or 'query-id<TAB>corpus-id<TAB>score', with whole numbers as grades"

QRELS_HEADER = "name the columns query-id, corpus-id and score, or leave the header out"

QRELS_COLUMNS = {
    "query": (QUERY_ID_WORDS, {"query", "topic", "question"}, ID_WORDS),
    "document": (DOC_ID_WORDS, {"doc", "document", "passage", "corpus"}, ID_WORDS),
    "grade": ({"score", "rel", "relevance", "relevancy", "grade", "rating", "label", "judgment", "judgement"},),
}

ITERATION_WORDS = {"iteration", "iter", "0", "q0", ""}

GRADE = re.compile(r"[+-]?[0-9]{1,10}(\.0*)?([eE][+-]?[0-9]{1,2})?")

MOST = 2**31  # above it, a grade is no judgment but a mistake

SAME_BUT_FOR: dict[str, Callable[[str], str]] = {
    "leading zeros": lambda text: text.lstrip("0"),
    "'.0' at the end": lambda text: text.removesuffix(".0"),
    "capital letters": str.casefold,
}


@dataclass
class Judged:
    """The queries of a qrels file.

    `grades`: by query and document, from its good lines; `named`: queries of bad lines too; `seen`: how many lines it
    has; `unmatched`: query and document of judgments of which the collection lacks one.
    """

    uri: str
    grades: dict[str, dict[str, int]] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    seen: int = 0
    unmatched: list[tuple[str, str]] = field(default_factory=list)

    def check_matched(self, share: float) -> None:
        """Raise `RradError` if more than this share of the lines are judgments of other queries or documents."""
        if len(self.unmatched) > share * self.seen:
            count, example = len(self.unmatched), " and ".join(map(repr, self.unmatched[0]))
            problem = f"{count:,} of its {self.seen:,} judgments name what the collection lacks: {example}"
            needed = math.ceil(100 * count / self.seen) / 100
            remedy = "use the qrels of this collection, with the same ids; if you have cut it, "
            raise RradError(self.uri, problem, f"{remedy}max_quarantined={needed} sets those judgments aside")


@dataclass(frozen=True)
class Ids:
    """The ids of a collection, to which its qrels must belong."""

    queries: Collection[str]
    documents: Collection[str]

    def check(self, query_id: str, doc_id: str) -> None:
        """Raise `BadRow` for a judgment of another collection."""
        if query_id not in self.queries:
            raise BadRow("unknown id", f"query {query_id!r} is not in queries.jsonl", query_id)
        if doc_id not in self.documents:
            raise BadRow("unknown id", f"document {doc_id!r} is not in corpus.jsonl", query_id)


@dataclass
class Layout:
    """The columns of a qrels file. `width`: how many a line has; 0: its first good line will say."""

    width: int = 0
    query: int = 0
    document: int = -2
    grade: int = -1

    def cells(self, line: str) -> list[str]:
        """Return the columns of a line: between tabs where that makes as many as there are, as BEIR's ids may hold
        spaces; else between white space, as TREC's may not."""
        cells, words = _tabbed(line), line.split()
        wanted = (self.width,) if self.width else (3, 4)
        return cells if len(cells) in (3, 4, *wanted) or (len(words) == 3 and len(cells) > 1) else words

    def query_of(self, cells: list[str]) -> str:
        """Return the query that a line names, which may be no judgment."""
        return cells[self.query if self.query < len(cells) else 0]

    def judgment(self, cells: list[str]) -> tuple[str, str, int]:
        """Return query, document and grade; `BadRow` if the columns are no judgment."""
        check_line("".join(cells))
        if len(cells) not in ((self.width,) if self.width else (3, 4)):
            wanted = f"{self.width} columns, as above" if self.width else "3 or 4 columns"
            raise BadRow("malformed line", f"has {len(cells)} columns, not {wanted}")
        query_id, doc_id, grade = cells[self.query], cells[self.document], cells[self.grade]
        if not query_id or not doc_id:
            raise BadRow("malformed line", "has an empty id")
        if not GRADE.fullmatch(grade) or not float(grade).is_integer() or abs(float(grade)) >= MOST:
            raise BadRow("malformed line", f"has the grade {grade[:40]!r}, which is no whole number")
        return query_id, doc_id, int(float(grade))


def read_qrels(uri: str, reject: Reject, name: str = "", ids: Ids | None = None) -> Judged:
    """Return the judgments of a qrels file. A document that is judged twice keeps its first grade.

    What is no judgment goes to `reject`, by file (`name`) and line, and so does one that is not of `ids`. Raises
    `RradError` for a header that leaves open which column is which, and for a file without one judgment, or without
    one of `ids`: whose queries would it judge?
    """
    judged, name = Judged(uri), name or uri.rpartition("/")[2]
    layout: Layout | None = None
    good, first_bad = False, (uri, "holds no line of qrels")
    for number, line in lines(uri, QRELS_LINE):
        if layout is None:
            header = _header(line, f"{uri}:{number}")
            layout = header or Layout()
            if header:
                continue
        judged.seen += 1
        cells = layout.cells(line)
        try:
            query_id, doc_id, grade = layout.judgment(cells)
            layout.width, good = len(cells), True
            _add(judged, query_id, doc_id, grade, ids)
        except BadRow as wrong:
            first_bad = first_bad if judged.seen > 1 else (f"{uri}:{number}", wrong.problem)
            judged.named.add(layout.query_of(cells))
            reject(wrong.row_id or f"{name}:{number}", f"{wrong.category}: {name}:{number} {wrong.problem}", line)
    if not good:
        bad_place, problem = first_bad
        problem += f"; none of its {judged.seen} lines is a judgment" if judged.seen else ""
        raise RradError(bad_place, problem, QRELS_LINE)
    if ids and not judged.grades:
        raise _all_unmatched(judged, ids)
    return judged


def _add(judged: Judged, query_id: str, doc_id: str, grade: int, ids: Ids | None) -> None:
    judged.named.add(query_id)
    if ids:
        try:
            ids.check(query_id, doc_id)
        except BadRow:
            judged.unmatched.append((query_id, doc_id))
            raise
    grades = judged.grades.setdefault(query_id, {})
    if doc_id in grades:
        raise BadRow("duplicate id", f"{doc_id!r} is judged above already, and that grade stays", query_id)
    grades[doc_id] = grade


def _all_unmatched(judged: Judged, ids: Ids) -> RradError:
    """Return the error for a qrels file of which no judgment belongs to the collection."""
    of_known = [doc_id for query_id, doc_id in judged.unmatched if query_id in ids.queries]
    if of_known:
        return no_match(judged.uri, "document", of_known, ids.documents)
    error = no_match(judged.uri, "query", [query_id for query_id, _ in judged.unmatched], ids.queries)
    if any(query_id in ids.documents for query_id, _ in judged.unmatched):
        error = RradError(judged.uri, f"{error.problem}; it has documents where queries are read", QRELS_HEADER)
    return error


def no_match(uri: str, kind: str, named: Iterable[str], own: Collection[str]) -> RradError:
    """Return the error for a qrels file whose queries or documents (`kind`) are none of the `own` ones.

    It shows an id of each side, and says where they differ by their form alone.
    """
    named = sorted(set(named))
    for what, form in SAME_BUT_FOR.items():
        own_by_form = {form(each): each for each in own}
        twin = next(((each, own_by_form[form(each)]) for each in named if form(each) in own_by_form), None)
        if twin:
            problem = f"names no {kind} of the collection: it has {twin[0]!r}, the collection {twin[1]!r}"
            problem += f", and {what} are the difference"
            return RradError(uri, problem, "write the ids alike, as text: pandas keeps them so by dtype=str")
    problem = f"names no {kind} of the collection: it has {named[0]!r}, the collection {min(own)!r}"
    return RradError(uri, problem, "use the qrels of this collection, or leave the file out")


def by_query(files: Iterable[tuple[str, Judged]]) -> dict[str, tuple[str, dict[str, int]]]:
    """Return split and grades of every query that the qrels of some splits name.

    A query in several of them has those of the first of test, dev, train; one that is named by bad lines alone has
    its split and no grades.
    """
    queries: dict[str, tuple[str, dict[str, int]]] = {}
    for split, judged in sorted(files, key=lambda item: LABELLED.index(item[0])):
        for query_id in judged.named:
            queries.setdefault(query_id, (split, judged.grades.get(query_id, {})))
    return queries


def _tabbed(line: str) -> list[str]:
    return [cell.strip() for cell in line.rstrip().split("\t")]


def _header(line: str, line_place: str) -> Layout | None:
    """Return the columns that a file's first line names; None where it is no header.

    Raises `RradError` for a header that leaves open which column is which.
    """
    cells = _tabbed(line)
    cells = cells if len(cells) > 2 else line.split()
    columns = named_columns(cells, QRELS_COLUMNS)
    if count_known(cells, QRELS_COLUMNS) < 2 or GRADE.fullmatch(cells[-1]):  # a query may be called `query`
        return None
    rest = [
        number
        for number, word in enumerate(column_words(cells))
        if number not in columns.values() and word not in ITERATION_WORDS
    ]
    if len(rest) == 1:
        columns.setdefault("grade", rest[0])
    if columns.keys() != QRELS_COLUMNS.keys():
        lacking = " and ".join(role for role in QRELS_COLUMNS if role not in columns)
        raise unclear_header(line_place, cells, f"the {lacking}", QRELS_HEADER)
    return Layout(len(cells), **columns)
