"""Find records in an answer that is written as a table, CSV, XML or named fields: an identifier with what is said of
it."""

from __future__ import annotations

import csv
import operator
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rrad_ray.labelling.answer_tokens import outside
from rrad_ray.labelling.answer_words import ANY_NAME, COST, RANK, SCORE

ID = re.compile(
    r"(?:(?:passage|document|doc|text|item|candidate|snippet|article|result)s?[ _-]?)?"
    r"(?:id|identifier|index|number|no\.?)?|"
    "文档|文檔|文書|段落|文章|文書番号|문서|단락|ドキュメント|パッセージ",
    re.IGNORECASE,
)
_ONE_ID = re.compile(rf"\W{{0,4}}(?:{ANY_NAME}\s?)?\W{{0,4}}(\d{{1,18}})(?:\.0)?\W{{0,4}}", re.IGNORECASE)
BRACKETED_ID = re.compile(r"\W{0,4}\[\s?(\d{1,18})\s?\]")
_LEADING_ID = re.compile(
    rf"\W{{0,4}}(?:(?:{ANY_NAME})\s?\W{{0,4}}(\d{{1,18}})|[\[(](\d{{1,18}})[\])])(?!\w)", re.IGNORECASE
)
_BOX_RULE = re.compile(r"^[ \t]*\+[-=+]{2,}\+[ \t]*$", re.MULTILINE)
_COLUMNS = re.compile(r"[ \t]{2,}|\t")
_ROW = re.compile(r"^[ \t]*\|?(.*\|.*?)\|?[ \t]*$", re.MULTILINE)
_TAG = re.compile(
    r"<(?P<closes>/?)(?:\w{1,20}:)?(?P<name>\w[\w-]{0,30})"
    r"(?P<attributes>(?:\s+[\w-]{1,20}\s?=\s?(?:\"[^\"<>\n]{0,200}\"|'[^'<>\n]{0,200}')){0,8})\s*(?P<empty>/?)>"
)
_ATTRIBUTE = re.compile(r"([\w-]{1,20})\s?=\s?[\"']([^\"']*)[\"']")
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_FIELD = re.compile(r"^[ \t*•\-–]*([^\W\d][\w ]{0,30}?)[*_]*[ \t]?[:=][ \t]*([^\n]{1,60})$", re.MULTILINE)
_HTML_ROW = re.compile(r"<tr\b[^>]{0,200}>((?:(?!<tr\b|</tr>).)*)(?:</tr>)?", re.IGNORECASE | re.DOTALL)
_HTML_CELL = re.compile(r"<t[hd]\b[^>]{0,200}>((?:(?!<t[hd]\b).)*)", re.IGNORECASE | re.DOTALL)
_HEADER_NOTE = re.compile(r"\((?:[^()]|\([^()]*\))*\)|\[.*?\]|\bout of \d+|/ ?\d+", re.IGNORECASE)
_RULE = re.compile(r"[\s|:\-–—+]+")

RowsAndRest = tuple[list[dict[str, str]], str]  # records, and the text around them


def identifier_of(record: Any) -> int | None:
    """Return the identifier of a record: of the member whose name says so; None if it has none."""
    if not isinstance(record, Mapping):
        return None
    for key, value in record.items():
        if str(key) and ID.fullmatch(str(key)) and (number := number_in(value)) is not None:
            return number
    return None


def number_in(item: Any) -> int | None:
    """Return the identifier in a value (`3`, `3.0`, `"[3]"`, `"Passage 3"`); None if it has none."""
    if isinstance(item, list) and len(item) == 1:
        item = item[0]
    if isinstance(item, float) and item.is_integer() and abs(item) < 1e15:
        return int(item)
    if isinstance(item, int) and not isinstance(item, bool):
        return item
    match = _ONE_ID.fullmatch(item) or BRACKETED_ID.match(item) if isinstance(item, str) else None
    return int(match[1]) if match else None


def leading_number(item: Any) -> list[int]:
    """Return the identifier that a text begins with (`Passage 3 (best)`), as a list; empty if it begins with none."""
    match = _LEADING_ID.match(item) if isinstance(item, str) else None
    return [int(next(number for number in match.groups() if number))] if match else []


def tag_rows(text: str) -> RowsAndRest:
    """Return the members of XML elements with an identifier, and the text around them.

    An element's members are its attributes (`<result rank="1" id="2"/>`) and what stands in the elements within it
    (`<result><id>2</id><relevance><score>9</score></relevance></result>`), by their names.
    """
    text = _CDATA.sub(r"\1", text)
    elements: list[tuple[int, int, dict[str, str]]] = []
    pending: list[tuple[re.Match[str], dict[str, str]]] = []  # begun and not closed
    open_names: Counter[str] = Counter()
    for tag in _TAG.finditer(text):
        name = tag["name"].lower()
        if not tag["closes"]:
            pending.append((tag, dict(_ATTRIBUTE.findall(tag["attributes"]))))
            open_names[name] += 1
        if not (tag["closes"] or tag["empty"]) or not open_names[name]:
            continue
        while pending:
            begun, members = pending.pop()
            open_names[begun["name"].lower()] -= 1
            closes = begun["name"].lower() == name
            whole = closes and begun is not tag and _with_content(members, name, text[begun.end() : tag.start()])
            end = tag.end() if closes else begun.end()
            is_record = identifier_of(members) is not None and (len(members) > 1 or not whole)
            if is_record and not (elements and elements[-1][0] > begun.start()):
                elements.append((begun.start(), end, members))
            elif closes and pending:
                _hand_up(pending[-1][1], name, members)
            if closes:
                break
    elements += [
        (begun.start(), begun.end(), members) for begun, members in pending if identifier_of(members) is not None
    ]
    rows = [members for _, _, members in elements]
    return (rows, outside(text, [(start, end) for start, end, _ in elements])) if len(rows) > 1 else ([], text)


def _with_content(members: dict[str, str], name: str, content: str) -> bool:
    """Add what stands in an element without others in it to its members; return whether something does."""
    content = content.strip()
    if not content or "<" in content:
        return False
    members.setdefault(name, content)
    return True


def _hand_up(above: dict[str, str], name: str, members: dict[str, str]) -> None:
    """Add the members of an element to those of the one around it; a single value goes by the element's name too."""
    if len(members) == 1:
        above.setdefault(name, next(iter(members.values())))
    for key, value in members.items():
        above.setdefault(key, value)


def field_rows(text: str) -> RowsAndRest:
    """Return the records of lines such as `document: 2` and `relevance: 9` below each other, and the other text."""
    rows: list[dict[str, str]] = []
    for match in _FIELD.finditer(text):
        key, value = match[1].strip().lower(), match[2].strip(" \t*_`\"',;")
        if ID.fullmatch(key):
            rows.append({})
        if rows:
            rows[-1].setdefault(key, value)
    whole = len(rows) > 1 and all(any(SCORE.fullmatch(key) or RANK.fullmatch(key) for key in row) for row in rows)
    return (rows, _FIELD.sub("", text)) if whole else ([], text)


def table_rows(text: str) -> RowsAndRest:
    """Return the rows of the last Markdown table with a column of identifiers, and the text without tables."""
    if "|" not in text:
        return [], text
    rows = [[cell.strip(" \t*_`") for cell in match[1].split("|")] for match in _ROW.finditer(text)]
    rules = [index for index, row in enumerate(rows) if _RULE.fullmatch("|".join(row)) and index > 0]
    if not rules:
        return [], text
    first = _transposed(rows, rules[-1])
    if first:
        return first, _ROW.sub("", text)
    # A box has rules above and below: the last one with rows behind it is that of the header.
    rule = max((index for index in rules if index + 1 < len(rows)), default=rules[-1])
    header = [_HEADER_NOTE.sub("", cell).strip().lower() for cell in rows[rule - 1]]
    body = [row for row in rows[rule + 1 :] if len(row) == len(header) and not _RULE.fullmatch("|".join(row))]
    if not any(cell and ID.fullmatch(cell) for cell in header):
        return [], text
    return [dict(zip(header, row, strict=True)) for row in body], _ROW.sub("", text)


def _transposed(rows: Sequence[Sequence[str]], rule: int) -> list[dict[str, str]]:
    """Return the records of a table whose columns are documents (`| | [1] | [2] |`, `| score | 2 | 9 |`)."""
    header = rows[rule - 1]
    numbers = [number_in(cell) for cell in header[1 : len(header) - (header[-1] == "")]]  # `|` at a line's end
    body = [row[: len(numbers) + 1] for row in rows[rule + 1 :] if len(row) > len(numbers)]
    if len(numbers) < 2 or None in numbers or len(set(numbers)) < len(numbers) or not body:
        return []
    columns = zip(*(row[1:] for row in body), strict=True)
    names = [row[0].lower() for row in body]
    return [
        {"id": str(number), **dict(zip(names, column, strict=True))}
        for number, column in zip(numbers, columns, strict=True)
    ]


def with_markdown_tables(text: str) -> str:
    """Return a text whose HTML tables, as far as they have a header, are Markdown; boxes' rules (`+---+`) too."""
    text = _BOX_RULE.sub(lambda rule: rule[0].replace("+", "|"), text)
    if "<th" not in text.lower():
        return text

    def line(row: re.Match[str]) -> str:
        cells = [re.sub(r"<[^>]*>", "", cell[1]).strip() for cell in _HTML_CELL.finditer(row[1])]
        rule = "\n|" + "---|" * len(cells) if "<th" in row[1].lower() else ""
        return f"\n|{'|'.join(cells)}|{rule}"

    return _HTML_ROW.sub(line, text)


def csv_rows(text: str) -> RowsAndRest:
    """Return the rows of CSV (by commas, semicolons, tabs or spaces) below a header of identifiers and a rank or
    score, and the text without them."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        for delimiter in (",", ";", "\t", "  ", " "):
            header = [cell.strip(" \"'*_`").lower() for cell in _split(line, delimiter)]
            ids = [bool(cell and ID.fullmatch(cell)) for cell in header]
            says = [bool(RANK.fullmatch(cell) or SCORE.fullmatch(cell) or COST.fullmatch(cell)) for cell in header]
            if not (any(ids) and any(says)) or (delimiter == " " and not all(map(operator.or_, ids, says))):
                continue
            rows = []
            for cells in _cells(lines[number + 1 :], delimiter):
                row = dict(zip(header, (cell.strip(" *_`") for cell in cells), strict=False))
                if len(cells) != len(header) or identifier_of(row) is None:
                    break
                rows.append(row)
            if len(rows) > 1:
                return rows, "\n".join([*lines[:number], *lines[number + 1 + len(rows) :]])
    return [], text


def _cells(lines: Sequence[str], delimiter: str) -> Iterator[list[str]]:
    """Give the cells of lines; two spaces stand for two and more, and tabs among them."""
    if delimiter.isspace() and delimiter != "\t":
        return (_split(line, delimiter) for line in lines)
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True)


def _split(line: str, delimiter: str) -> list[str]:
    """Return the cells of a line without quotes."""
    if delimiter == "  ":
        return _COLUMNS.split(line.strip())
    return line.split() if delimiter == " " else line.split(delimiter)
