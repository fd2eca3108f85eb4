"""The reference of all keys: docs/configuration.md is current, and a terminal shows the same."""

from __future__ import annotations

from rrad_ray.config import JudgeConfig
from rrad_ray.config.catalog import STAGES
from rrad_ray.config.reference import help_text, keys_of, markdown
from tests.commands import ROOT


def test_the_page_of_all_keys_is_current() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == markdown(), "run `make docs`"


def test_nested_keys_stand_with_dots_and_inherited_ones_keep_their_description() -> None:
    keys = {key.name: key for key in keys_of(JudgeConfig)}
    assert keys["gate.max_p"] == ("gate.max_p", "float > 0, <= 1", "0.05", keys["gate.max_p"].meaning)
    assert keys["input"].default == ""
    assert keys["doc_tokens"].meaning.startswith("Tokens that a document is cut to")
    assert keys["num_workers"].kind == "int or {min, max}"
    assert keys["task"].kind == "likelihood | order | grade | score | explain"


def test_a_terminal_shows_every_key_of_every_stage() -> None:
    for schema, _ in STAGES.values():
        text = help_text(schema)
        assert all(f"  {key.name}: {key.kind}" in text for key in keys_of(schema))
