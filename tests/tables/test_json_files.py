"""JSON as its standard has it, by one writer."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrad_ray import tables
from tests.commands import ROOT

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
@settings(max_examples=100, deadline=None)
def test_json_is_as_its_standard_has_it_and_null_stands_for_what_is_no_number(content: Any) -> None:
    def fail(word: str) -> None:
        pytest.fail(f"{word} is no JSON")

    text = tables.json_text({"content": content})
    assert json.loads(text, parse_constant=fail) == {"content": tables.finite(content)}


def test_json_files_have_one_writer() -> None:
    """`json.dumps` would write NaN, which only Python reads."""
    for path in (ROOT / "rrad_ray").rglob("*.py"):
        if path.parent.name != "rankers":  # a checkpoint's config.json is transformers'
            assert not re.search(r"write_text\(.*json\.dumps", path.read_text()), path
