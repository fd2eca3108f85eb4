"""Logs of any size: the same report to the last digit as rows in memory gave, and yesterday's files are not read."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrad_ray import tables
from rrad_ray.config import ExperimentConfig
from rrad_ray.errors import RradError
from rrad_ray.online import event_digests, traffic
from rrad_ray.rows import ClickEvent, Exposure
from rrad_ray.stages import experiment
from tests.online import reference
from tests.online.logs import analysed, joined
from tests.online.test_analysis import CFG, click, page, write

DOCS = ["a", "b", "b#1", "c"]


@st.composite
def _pages(draw: st.DrawFn) -> Exposure:
    docs = draw(st.permutations(DOCS))[: draw(st.integers(1, 4))]
    mixed = draw(st.booleans())
    named = st.sampled_from(["old", "new", "new", "old", "else"])
    return page(
        draw(st.sampled_from("0123456789")) + draw(st.sampled_from("xyz")),
        draw(st.sampled_from(["u", "v", "w", "ü", "Z", "𝒵", "ｚ"])),
        "" if mixed else draw(named),
        draw(st.sampled_from(["", "sort a list", "list sort", "sort", "SORT", "如何排序", "a b c d e"])),
        doc_ids=docs,
        teams=[draw(st.sampled_from(["old", "new"])) for _ in docs] if mixed else [],
        time=draw(st.sampled_from([100.0, 101.5, 150.25, 390.0, 401.5, 90_000.0])),
        experiment=draw(st.sampled_from(["test", "test", "test", "other"])),
        model=draw(st.sampled_from("mn")),
    )


@st.composite
def _clicks(draw: st.DrawFn) -> ClickEvent:
    request = draw(st.sampled_from("0123456789")) + draw(st.sampled_from("xyz"))
    options = {
        "event_id": draw(st.sampled_from("abcdef")),
        "position": draw(st.integers(1, 5)),
        "time": draw(st.sampled_from([100.0, 102.0, 1e5, 1e6])),
    }
    return click(
        request, draw(st.sampled_from(DOCS)), draw(st.sampled_from([float("nan"), 0.1, 12.7, 3000.0])), **options
    )


@settings(max_examples=60, deadline=None)
@given(
    shown=st.lists(_pages(), max_size=60),
    clicks=st.lists(_clicks(), max_size=80),
    design=st.sampled_from(["ab", "interleave"]),
    metric=st.sampled_from(["page_ctr", "user_ctr", "dwell"]),
    span=st.sampled_from([1, 7, 2**20]),
)
def test_figures_are_those_of_rows_in_memory_to_the_last_digit(
    shown: list[Any], clicks: list[Any], design: Any, metric: Any, span: int
) -> None:
    cfg = dataclasses.replace(CFG, design=design, metric=metric, max_clicks=3, looks=4)
    wanted, left_out = reference.join_traffic(shown, clicks, cfg)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traffic, "SPAN", span)
        read, out = joined(shown, clicks, cfg)
        for name in traffic.COLUMNS:
            assert getattr(read, name).tolist() == getattr(wanted, name).tolist(), name
        assert (read.units, out) == (len(wanted.units), left_out)
        content = analysed(shown, clicks, cfg)
        content["events"].pop("shortened", None)
        assert content == reference.analyse(shown, clicks, cfg)


def _day(number: int) -> tuple[list[Exposure], list[ClickEvent]]:
    """A day's pages, and clicks of which some are on yesterday's."""
    pages = [
        page(f"{number}-{n}", f"u{n % 40}", ["old", "new"][n % 2], f"query {n % 7}", time=86_400.0 * number + n)
        for n in range(80)
    ]
    clicks = [click(f"{number - n % 2}-{n}", "abc"[n % 3], time=86_400.0 * number + n) for n in range(60)]
    return [*pages, page("", "bad")], clicks


def _report(cfg: ExperimentConfig, name: str) -> dict[str, Any]:
    """The report of a new reading, without its time."""
    cfg = dataclasses.replace(cfg, output=f"{cfg.output}-{name}")
    content = json.loads(tables.read_text(f"{experiment.run(cfg)}/report.json"))
    assert tables.read_manifest(cfg.output).quarantined == content["events"]["set_aside"]
    return {key: value for key, value in content.items() if key != "created"}


def _store(cfg: ExperimentConfig, number: int) -> None:
    pages, clicks = _day(number)
    write(cfg.input, "exposures", f"day={number}/x.parquet", pages, Exposure)
    write(cfg.input, "clicks", f"day={number}/x.parquet", clicks, ClickEvent)


@pytest.fixture
def cfg(tmp_path: Path) -> ExperimentConfig:
    base = dataclasses.replace(CFG, input=f"{tmp_path}/log", output=f"{tmp_path}/out", state=f"{tmp_path}/state")
    return dataclasses.replace(base, max_quarantined=0.1)


def test_yesterdays_files_are_not_read_again(cfg: ExperimentConfig, tmp_path: Path) -> None:
    _store(cfg, 1)
    _report(cfg, "first")
    _store(cfg, 2)
    wanted = _report(dataclasses.replace(cfg, state=""), "whole")
    for file in (tmp_path / "log").rglob("day=1/*.parquet"):  # of the same size and time, and no Parquet any more
        times = file.stat().st_atime_ns, file.stat().st_mtime_ns
        file.write_bytes(b"x" * file.stat().st_size)
        os.utime(file, ns=times)
    assert _report(cfg, "second") == wanted
    assert tables.read_manifest(f"{cfg.output}-second").facts["new_files"] == 2


def test_a_file_that_has_changed_is_read_again(cfg: ExperimentConfig) -> None:
    for number in (1, 2, 3):
        _store(cfg, number)
    _report(cfg, "first")
    pages, _ = _day(2)
    write(cfg.input, "exposures", "day=2/x.parquet", pages[:30], Exposure)
    tables.remove(f"{cfg.input}/clicks/day=3/x.parquet")
    assert _report(cfg, "second") == _report(dataclasses.replace(cfg, state=""), "whole")


def test_what_an_earlier_version_has_read_in_another_way_is_read_again(cfg: ExperimentConfig, tmp_path: Path) -> None:
    _store(cfg, 1)
    wanted = _report(cfg, "first")
    for mark in (tmp_path / "state").rglob("*.json"):
        content = json.loads(mark.read_text())
        assert content.pop("read_by") == event_digests.reading_mark()  # earlier versions wrote none
        mark.write_text(json.dumps(content))
    assert _report(cfg, "second") == wanted
    assert tables.read_manifest(f"{cfg.output}-second").facts["new_files"] == 2
    assert _report(cfg, "third") == wanted
    assert tables.read_manifest(f"{cfg.output}-third").facts["new_files"] == 0


def test_dwells_that_are_shortened_are_counted_on_terminal_and_in_the_report(
    cfg: ExperimentConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """Milliseconds, say: all dwells were the same, and the variants without a word too."""
    write(cfg.input, "exposures", "x.parquet", [page(str(n), f"u{n}") for n in range(3)], Exposure)
    dwells = [12_000.0, 9_000.0, 12.0]
    write(cfg.input, "clicks", "x.parquet", [click(str(n), "a", dwell) for n, dwell in enumerate(dwells)], ClickEvent)
    assert _report(cfg, "ms")["events"]["shortened"] == 2
    assert "counted as max_dwell_s: 2 x longer dwell (dwell_s is in seconds)" in capsys.readouterr().out
    assert "longer dwells" in tables.read_text(f"{cfg.output}-ms/report.html")


def test_events_beyond_memory_are_joined_on_disk(cfg: ExperimentConfig) -> None:
    pages = [page(f"{n}", f"u{n % 5000}", doc_ids=[f"{n}-{i}" for i in range(20)]) for n in range(30_000)]
    clicks = [click(f"{n}", f"{n}-3", position=4) for n in range(0, 30_000, 3)]
    small = dataclasses.replace(cfg, memory_gib=0.1)
    assert analysed(pages, clicks, small) == reference.analyse(pages, clicks, small)


def test_the_log_is_no_place_for_what_was_read_of_it(cfg: ExperimentConfig) -> None:
    _store(cfg, 1)
    before = sorted(tables.files.listed(cfg.input))
    for state in (cfg.input, f"{cfg.input}/"):
        with pytest.raises(RradError, match=r"state: .* is where the log's exposures are; name a folder beside"):
            experiment.run(dataclasses.replace(cfg, state=state))
    assert sorted(tables.files.listed(cfg.input)) == before
    experiment.run(dataclasses.replace(cfg, state=f"{cfg.input}/state"))
