"""Qrels: TREC's four columns (`query_id iteration doc_id grade`) or BEIR's three (`query-id corpus-id score`).

Between them stand tabs or spaces; there may be a header. Files are local or on `s3://`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rrad_ray.data.text_files import DOC_ID_WORDS, QUERY_ID_WORDS, BadRow, Reject, check_line, is_header, lines
from rrad_ray.errors import RradError

LABELLED = ("test", "dev", "train")  # a query that stands in several qrels files belongs to the first of these

QRELS_LINE = "write 'query_id 0 doc_id grade' or 'query-id<TAB>corpus-id<TAB>score', with whole numbers as grades"

GRADE = re.compile(r"[+-]?[0-9]{1,10}(\.0*)?([eE][+-]?[0-9]{1,2})?")

MOST = 2**31  # above it, a grade is no judgment but a mistake


@dataclass
class Judged:
    """The queries of a qrels file: `grades` by query and document, from its good lines; `named`: those of bad lines
    too."""

    grades: dict[str, dict[str, int]] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)


def read_qrels(uri: str, reject: Reject, name: str = "", known: Callable[[str, str], None] | None = None) -> Judged:
    """Return the judgments of a qrels file. A document that is judged twice keeps its first grade.

    What is no judgment goes to `reject`, by file (`name`) and line, and so does one that `known` (query, document)
    raises `BadRow` for. Raises `RradError` for a file without one judgment: whose queries would it judge?
    """
    judged, name = Judged(), name or uri.rpartition("/")[2]
    width = bad = 0  # columns of the first good line: a line of another width has lost or gained one
    first_bad = (uri, "holds no line of qrels")
    for number, line in lines(uri, QRELS_LINE):
        cells = _cells(line)
        try:
            if not width and not bad and _names_columns(cells):
                continue
            query_id, doc_id, grade = _judgment(cells, width)
            width = len(cells)
            judged.named.add(query_id)
            if known:
                known(query_id, doc_id)
            grades = judged.grades.setdefault(query_id, {})
            if doc_id in grades:
                raise BadRow("duplicate id", f"{doc_id!r} is judged above already, and that grade stays", query_id)
            grades[doc_id] = grade
        except BadRow as wrong:
            bad, first_bad = bad + 1, first_bad if bad else (f"{uri}:{number}", wrong.problem)
            judged.named.add(cells[0])
            reject(wrong.row_id or f"{name}:{number}", f"{wrong.category}: {name}:{number} {wrong.problem}", line)
    if not width:
        bad_place, problem = first_bad
        problem += f"; none of its {bad} lines is a judgment" if bad else ""
        raise RradError(bad_place, problem, QRELS_LINE)
    return judged


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


def _cells(line: str) -> list[str]:
    """Return the columns of a line: between tabs where that makes three or four, as BEIR's ids may hold spaces; else
    between white space, as TREC's may not."""
    cells = [cell.strip() for cell in line.rstrip().split("\t")]
    words = line.split()
    return cells if len(cells) in (3, 4) or (len(words) == 3 and len(cells) > 1) else words


def _names_columns(cells: list[str]) -> bool:
    ids = [QUERY_ID_WORDS, DOC_ID_WORDS] if len(cells) == 3 else [QUERY_ID_WORDS]
    return len(cells) in (3, 4) and is_header(cells, *ids) and not GRADE.fullmatch(cells[-1])


def _judgment(cells: list[str], width: int) -> tuple[str, str, int]:
    """Return query, document and grade; `BadRow` if the columns are no judgment. `width`: how many the file has; 0:
    that is not known yet."""
    check_line("".join(cells))
    if len(cells) not in ((width,) if width else (3, 4)):
        wanted = f"{width} columns, as above" if width else "3 or 4 columns"
        raise BadRow("malformed line", f"has {len(cells)} columns, not {wanted}")
    query_id, doc_id, grade = cells[0], cells[-2], cells[-1]
    if not query_id or not doc_id:
        raise BadRow("malformed line", "has an empty id")
    if not GRADE.fullmatch(grade) or not float(grade).is_integer() or abs(float(grade)) >= MOST:
        raise BadRow("malformed line", f"has the grade {grade[:40]!r}, which is no whole number")
    return query_id, doc_id, int(float(grade))
