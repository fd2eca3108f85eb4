"""Assignment: shares, stickiness, which units move when weights change, and fair team drafts."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from rrad_ray.config import ExperimentDesign, OnlineConfig
from rrad_ray.online.assignment import assign_variant, interleave
from tests.commands import ROOT

CFG = ExperimentDesign(name="test", variants={"old": 2.0, "new": 1.0, "third": 1.0})
UNITS = [f"user-{number}" for number in range(8000)]


def changed(**keys: object) -> ExperimentDesign:
    return dataclasses.replace(CFG, **keys)  # type: ignore[arg-type]


def test_a_units_variant_never_changes_between_versions_of_this_code() -> None:
    # Live experiments hang on these values: whoever changes the hash moves users between variants.
    seen = [assign_variant(unit, CFG) for unit in ("alice", "bob", "", "Ünïcode", "a\x00b", "\ud800", "7", "8")]
    assert seen == ["old", "old", "third", "new", "third", "old", "new", "old"]


def test_every_process_gives_a_unit_the_same_variant() -> None:
    program = (
        "from rrad_ray.config import ExperimentDesign\n"
        "from rrad_ray.online.assignment import assign_variant, interleave\n"
        f"cfg = ExperimentDesign(name='test', variants={CFG.variants!r})\n"
        f"print([assign_variant(unit, cfg) for unit in {UNITS[:300]!r}], interleave('abcd', 'dbxa', 'request-1'))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    here = [assign_variant(unit, CFG) for unit in UNITS[:300]], interleave("abcd", "dbxa", "request-1")
    assert outputs == {f"{here[0]} {here[1]}\n"}


@pytest.mark.parametrize("weights", [{"a": 1, "b": 1}, {"a": 0.9, "b": 0.1}, {"a": 2, "b": 1, "c": 5}])
def test_shares_are_those_of_the_weights(weights: dict[str, float]) -> None:
    cfg = changed(variants=weights)
    counts = Counter(assign_variant(unit, cfg) for unit in UNITS)
    shares = np.array(list(weights.values())) / sum(weights.values())
    assert chisquare([counts[name] for name in weights], len(UNITS) * shares).pvalue > 0.01


def test_units_that_look_alike_are_spread_too() -> None:
    counts = Counter(
        assign_variant(str(number), changed(variants={"a": 1, "b": 1})) for number in range(10_000, 14_000)
    )
    assert chisquare(list(counts.values())).pvalue > 0.01


def test_experiments_of_other_names_draw_independently() -> None:
    table = Counter((assign_variant(unit, CFG), assign_variant(unit, changed(name="another"))) for unit in UNITS)
    names = list(CFG.variants)
    assert chi2_contingency([[table[a, b] for b in names] for a in names]).pvalue > 0.01


def test_a_weight_that_grows_and_a_new_variant_move_units_to_that_variant_only() -> None:
    before = {unit: assign_variant(unit, CFG) for unit in UNITS}
    for variants, grown in (
        ({"old": 2, "new": 3, "third": 1}, "new"),
        ({"old": 2, "new": 1, "third": 1, "fourth": 1}, "fourth"),
    ):
        after = {unit: assign_variant(unit, changed(variants=variants)) for unit in UNITS}
        moved = [unit for unit in UNITS if before[unit] != after[unit]]
        assert moved
        assert {after[unit] for unit in moved} == {grown}
        share = variants[grown] / sum(variants.values()) - CFG.variants.get(grown, 0) / 4
        assert len(moved) / len(UNITS) == pytest.approx(share, abs=0.02)  # no more than the shares demand


def test_only_ratios_of_weights_matter_and_a_weight_of_zero_gets_nobody() -> None:
    assert [assign_variant(unit, CFG) for unit in UNITS[:500]] == [
        assign_variant(unit, changed(variants={"old": 50, "new": 25, "third": 25})) for unit in UNITS[:500]
    ]
    assert {assign_variant(unit, changed(variants={"a": 0, "b": 1})) for unit in UNITS[:500]} == {"b"}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"variants": {"a": 1}}, "at least two"),
        ({"variants": {"a": 0, "b": 0}}, "must be positive"),
        ({"variants": {"a": -1, "b": 1}}, "variants.a"),
        ({"variants": {"a": float("nan"), "b": 1}}, "variants.a"),
        ({"control": "gone"}, "control=.gone.: choose one of"),
        ({"design": "interleave"}, "exactly two"),
        ({"design": "mixed"}, "'ab' or 'interleave'"),
        ({"name": ""}, "must not be empty"),
    ],
)
def test_a_config_that_cannot_be_is_refused(keys: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        changed(**keys)


RUNS = st.lists(st.sampled_from("abcdefghijklmnop"), unique=True, max_size=10)


@given(RUNS, RUNS, st.integers(), st.integers(0, 12))
def test_a_draft_has_every_document_once_up_to_depth_and_each_team_adds_its_best(
    run_a: list[str], run_b: list[str], seed: int, depth: int
) -> None:
    docs, teams = interleave(run_a, run_b, seed, depth)
    union = {*run_a, *run_b}
    assert len(docs) == len(set(docs)) == len(teams) == (min(depth, len(union)) if depth else len(union))
    assert set(docs) <= union
    assert (docs, teams) == interleave(run_a, run_b, seed, depth)
    for rank, (doc, team) in enumerate(zip(docs, teams)):
        left = [other for other in (run_a, run_b)[team] if other not in docs[:rank]]
        assert doc == left[0]


@given(st.permutations("abcdefgh"), st.permutations("abcdefgh"), st.integers())
def test_every_prefix_of_a_draft_has_as_many_documents_of_one_team_as_of_the_other_or_one_more(
    run_a: list[str], run_b: list[str], seed: int
) -> None:
    _, teams = interleave(run_a, run_b, seed)
    balance = np.cumsum([2 * team - 1 for team in teams])
    assert set(np.abs(balance).tolist()) <= {0, 1}
    assert set(balance[1::2].tolist()) == {0}


def test_who_picks_first_is_a_fair_coin_in_every_round() -> None:
    drafts = np.array([interleave("abcdef", "ghijkl", seed)[1] for seed in range(2000)])
    for first in (0, 2, 4, 6):
        assert abs(drafts[:, first].mean() - 0.5) < 0.035
    assert abs(np.corrcoef(drafts[:, 0], drafts[:, 2])[0, 1]) < 0.07


def test_when_one_list_ends_the_other_goes_on() -> None:
    docs, teams = interleave(["a"], ["a", "b", "c", "d"], 0)
    assert sorted(docs) == ["a", "b", "c", "d"]
    assert docs[1:] == ["b", "c", "d"]
    assert teams[1:] == [1, 1, 1]
    assert interleave([], [], 0) == ([], [])


def test_a_salt_draws_anew_and_no_salt_draws_as_ever() -> None:
    plain, one, two = ([assign_variant(unit, CFG, salt) for unit in UNITS] for salt in (b"", b"one", b"two"))
    assert plain == [assign_variant(unit, CFG) for unit in UNITS]
    for drawn, other in ((plain, one), (one, two)):
        table = Counter(zip(drawn, other, strict=True))
        names = list(CFG.variants)
        assert chi2_contingency([[table[a, b] for b in names] for a in names]).pvalue > 0.01


@pytest.mark.parametrize("variant", ["\ud55c\uad6d", "a\r\nx-b: c", "a ", "\x7f"])
def test_an_endpoint_refuses_a_variant_whose_name_no_header_can_have(variant: str) -> None:
    with pytest.raises(ValueError, match=r"online.variants=.* must be visible ASCII, for a header"):
        OnlineConfig("events", "test", {variant: 1, "winner": 1})
