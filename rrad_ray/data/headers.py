"""Header lines of other people's text files: which column holds what, by the names that stand there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rrad_ray.errors import RradError

QUERY_ID_WORDS = {"qid", "queryid", "topicid", "topicno", "questionid"}

DOC_ID_WORDS = {"pid", "did", "docid", "docno", "documentid", "passageid", "corpusid"}

ID_WORDS = {"id"}  # of the query, of the document, or of both in this order


def column_words(cells: Sequence[str]) -> list[str]:
    """Return the names of columns as they are compared: in small letters, without `-`, `_`, `.` and spaces."""
    return ["".join(filter(str.isalnum, cell.lower())) for cell in cells]


def named_columns(cells: Sequence[str], roles: Mapping[str, Sequence[set[str]]]) -> dict[str, int]:
    """Return which column has which role, of the roles that the cells name.

    `roles`: names of each role, the most telling first: `qid` is a query's id before `query` is, and `id` last. Roles
    that share a name take its columns in their own order; a role that more columns name equally well has none.
    """
    words = column_words(cells)
    columns: dict[str, int] = {}
    unclear: set[str] = set()
    for rank in range(max(map(len, roles.values()))):
        wanted = {role: names[rank] for role, names in roles.items() if rank < len(names)}
        wanted = {role: names for role, names in wanted.items() if role not in {*columns, *unclear}}
        free = [(number, word) for number, word in enumerate(words) if number not in columns.values()]
        for role, names in wanted.items():
            sharers = [each for each, others in wanted.items() if others == names]
            named = [number for number, word in free if word in names]
            if len(named) == len(sharers):
                columns[role] = named[sharers.index(role)]
            elif named:
                unclear.add(role)
    return columns


def count_known(cells: Sequence[str], roles: Mapping[str, Sequence[set[str]]]) -> int:
    """Return how many of the cells are names of roles, if two of them may be names of the same."""
    known = set().union(*(names for ranks in roles.values() for names in ranks))
    return sum(word in known for word in column_words(cells))


def unclear_header(line_place: str, cells: Sequence[str], roles: str, remedy: str) -> RradError:
    """Return the error for a header at `file:line` whose names leave open which column has these roles."""
    return RradError(line_place, f"its header {cells} does not say which column is {roles}", remedy)
