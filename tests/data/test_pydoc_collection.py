"""The collection made from the installed packages: large, clean, deterministic, and fair to rankers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rrad_ray.data.collection import Collection
from rrad_ray.data.docstrings import parse_docstring
from rrad_ray.data.pydoc_collection import is_need
from rrad_ray.data.reader import read_collection

ROOT = Path(__file__).resolve().parents[2]
DIGEST = """
import dataclasses, hashlib, json{first}
from rrad_ray.data.pydoc_collection import read_pydoc
text = json.dumps(dataclasses.asdict(read_pydoc()))
print(hashlib.sha256(text.encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def pydoc() -> Collection:
    return read_collection("pydoc:")


def digest(seed: str, first: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", DIGEST.format(first=first)]
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)


@pytest.mark.slow
def test_two_processes_with_other_hash_seeds_and_import_orders_build_the_same_bytes_and_print_nothing() -> None:
    one, other = digest("1", ""), digest("2", ", xml.dom.minidom, pandas.testing, numpy.ma")
    assert one.stdout == other.stdout
    assert len(one.stdout.split()) == 1
    assert one.stderr == other.stderr == ""


def test_it_is_large_enough_to_train_and_to_test(pydoc: Collection) -> None:
    splits = [query.split for query in pydoc.queries]
    assert len(pydoc.corpus) >= 5000
    assert len(pydoc.queries) >= 5000
    assert splits.count("test") >= 300
    assert splits.count("train") >= 300
    assert splits.count("dev") >= 100
    assert pydoc.rejected == []


def test_texts_are_short_for_small_models(pydoc: Collection) -> None:
    counts = sorted(len(text.split()) for text in pydoc.corpus.values())
    assert counts[-1] <= 120
    assert 25 <= counts[len(counts) // 2] <= 100


def test_no_summary_line_stands_in_its_own_document(pydoc: Collection) -> None:
    for query in pydoc.queries:
        for doc_id, grade in query.judged.items():
            assert grade == 1 or query.text.lower() not in pydoc.corpus[doc_id].lower()


def test_every_judged_id_exists_and_every_labelled_query_has_an_answer(pydoc: Collection) -> None:
    for query in pydoc.queries:
        assert set(query.judged) <= set(pydoc.corpus)
        assert set(query.judged.values()) <= {1, 2}
        assert (2 in query.judged.values()) == (query.split != "unlabelled")


def test_ids_and_queries_are_unique_and_in_order(pydoc: Collection) -> None:
    ids = [query.query_id for query in pydoc.queries]
    assert ids == sorted(set(ids))
    assert len({query.text for query in pydoc.queries}) == len(ids)
    assert list(pydoc.corpus) == sorted(pydoc.corpus)


def test_no_memory_address_and_no_doctest_is_left_in_a_text(pydoc: Collection) -> None:
    for text in [*pydoc.corpus.values(), *(query.text for query in pydoc.queries)]:
        assert " at 0x" not in text
        assert ">>> " not in text


def test_every_query_is_a_need_of_4_to_40_words(pydoc: Collection) -> None:
    assert all(is_need(query.text) for query in pydoc.queries)


@pytest.mark.parametrize(
    "text",
    [
        "Sort a list",
        "Initialize self. See help(type(self)) for accurate signature",
        "Alias for field number 0",
        "Return repr(self) of the object here",
        "See torch.cumsum for the details",
        "Deprecated since version 2.0, use other",
        "1 + 2 = 3 * 1 - 0",
    ],
)
def test_placeholders_and_notes_are_no_needs(text: str) -> None:
    assert not is_need(text)


def test_related_functions_have_grade_1(pydoc: Collection) -> None:
    related = {doc_id for query in pydoc.queries for doc_id, grade in query.judged.items() if grade == 1}
    assert len(related) > 100


NUMPY = """add_up(x, *, axis=None)

Add the elements
of `x` along an axis. Slow for lists.

See :func:`~numpy.sum`, :math:`n \\times m` and ``axis`` [1]_.

Parameters
----------
x : array_like
    The numbers. They may be
    of any type.
axis : int, optional
    Where to add.

Returns
-------
total : float
    The sum.

See Also
--------
cumsum : Running sum.
numpy.prod, mean

Examples
--------
>>> add_up([1, 2])
3
"""


def test_a_numpy_docstring_is_taken_apart() -> None:
    doc = parse_docstring(NUMPY)
    assert doc.summary == "Add the elements of x along an axis"
    assert doc.signature == "x, *, axis=None"
    assert doc.see_also == ("cumsum", "numpy.prod", "mean")
    description = "Slow for lists. See sum, n times m and axis . Returns: The sum."
    assert doc.body.splitlines() == [description, "x: The numbers.", "axis: Where to add."]


GOOGLE = """Add numbers up.

Note:
    Not exact.

Args:
    x (int): the numbers. All.
    *rest: more

Example::

    >>> f()
"""


def test_a_google_docstring_is_taken_apart() -> None:
    doc = parse_docstring(GOOGLE)
    assert doc.summary == "Add numbers up"
    assert doc.body.splitlines() == ["x: the numbers.", "*rest: more"]


def test_a_sphinx_docstring_is_taken_apart() -> None:
    doc = parse_docstring("Add numbers up.\n\n:param int x: the numbers\n:returns: the sum\n")
    assert (doc.summary, doc.body) == ("Add numbers up", "x: the numbers")


def test_an_answer_on_the_signature_line_of_a_c_function_is_its_summary() -> None:
    doc = parse_docstring("D.pop(k[,d]) -> v, remove specified key and return the corresponding value.")
    assert (doc.signature, doc.summary) == ("k[,d]", "v, remove specified key and return the corresponding value")


@pytest.mark.parametrize(
    "raw", ["", "\n\n", "f(", "f(x) -> ", "Parameters\n----------", "..", ">>> 1", "::", "-----\n"]
)
def test_odd_docstrings_do_no_harm(raw: str) -> None:
    assert parse_docstring(raw).see_also == ()
