"""The analysis of an online test: which events count, metrics by hand, simulated users, and the report."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from benchmarks import click_models
from rrad_ray import cli, config, tables
from rrad_ray.config import ExperimentConfig
from rrad_ray.errors import RradError, in_stage
from rrad_ray.online import analysis, event_log, event_rows, report_html
from rrad_ray.rows import ClickEvent, Exposure
from rrad_ray.serving import documents
from rrad_ray.stages import experiment
from tests import browsers
from tests.commands import ROOT
from tests.evaluation.test_report import EVIL, Page
from tests.online import reference
from tests.online.logs import analysed, joined

CFG = ExperimentConfig("in", "out", name="test", variants={"old": 1.0, "new": 1.0}, min_units=2, k=2)
ALL = slice(None)
MIXED = dataclasses.replace(CFG, design="interleave")


def page(request: str, unit: str, variant: str = "old", query: str = "sort a list", **keys: Any) -> Exposure:
    exposure = {"request_id": request, "experiment": "test", "unit": unit, "variant": variant, "query": query}
    exposure |= {"doc_ids": ["a", "b", "c"], "teams": [], "time": 100.0, "model": f"m-{variant}", **keys}
    return exposure  # type: ignore[return-value]


def click(request: str, doc: str, dwell: float = 10.0, **keys: Any) -> ClickEvent:
    event = {"event_id": f"{request}-{doc}", "request_id": request, "doc_id": doc, "position": "abc".find(doc) + 1}
    return event | {"dwell_s": dwell, "time": 101.0, **keys}  # type: ignore[return-value]


# ---- what counts --------------------------------------------------------------------------------------------


def test_events_that_do_not_belong_together_are_left_out_and_counted() -> None:
    pages = [
        page("1", "u"),
        page("1", "u", query="sent again"),
        page("2", "u", experiment="other"),
        page("3", "u", teams=["old", "new", "old"], variant=""),
        page("4", "u", "unknown"),
        page("5", "torn", "old"),
        page("6", "torn", "new"),
        page("7", "v", "new"),
    ]
    clicks = [
        click("1", "a"),
        click("1", "a"),
        click("1", "z"),
        click("1", "b", position=1),
        click("2", "a"),
        click("5", "a"),
        click("99", "a"),
        click("7", "c"),
    ]
    read_pages, left_out = joined(pages, clicks, CFG)
    assert read_pages.units == 2
    assert read_pages.clicked_P.tolist() == [True, True]
    assert read_pages.clicked_k_P.tolist() == [True, False]
    assert left_out == {
        "exposure that came twice": 1,
        "page of another experiment": 1,
        "page of another design": 1,
        "page of a variant that the config does not name": 1,
        "page of a unit that saw several variants": 2,
        "click that came twice": 1,
        "click on a document that was not shown": 1,
        "click on a document that stood at another position": 1,
        "click on a page that is left out": 2,
        "click without an exposure": 1,
    }


@pytest.mark.parametrize(
    "ids",
    [["a", "a", "b"], ["a#2", "a", "a"], ["a", "a", "a#1"], ["a", "a#1", "a#1", "a"], ["a"] * 4, ["", "#1", "a"]],
)
@pytest.mark.parametrize("design", ["ab", "interleave"])
def test_a_click_on_a_document_whose_id_stands_on_the_page_twice_counts_by_its_position(
    tmp_path: Path, ids: list[str], design: str
) -> None:
    shown, teams = documents.distinct_ids(ids), ["old", "new"] * 2 if design == "interleave" else []
    exposure = page("1", "u", "" if teams else "old", doc_ids=shown, teams=teams[: len(ids)])
    write(str(tmp_path), "exposures", "x.parquet", [exposure], Exposure)
    read = list(event_log.read_exposures(str(tmp_path), lambda *bad: pytest.fail(str(bad))))
    for names in (ids, shown):
        clicks = [
            click("1", name, position=index, event_id=f"{index}") for index, name in enumerate(names, 1) if name
        ]
        read_pages, left_out = joined(read, clicks, dataclasses.replace(CFG, design=design))
        assert left_out == {}
        assert read_pages.dwelt_P.tolist() == [len(clicks)]
        if teams:
            credits = {"old": -1, "new": 1}
            assert read_pages.won_P.tolist() == [sum(credits[teams[each["position"] - 1]] for each in clicks)]
    assert not event_rows.is_called("a#10", "a", 1), "that is another document's id"
    for position in (0, len(ids) + 1, 2**31 - 1):
        _, left_out = joined(read, [click("1", ids[0] or "a", position=position)], CFG)
        assert sum(left_out.values()) >= 1


def test_a_page_is_reformulated_if_a_like_query_follows_in_time_and_nothing_was_clicked() -> None:
    pages = [
        page("1", "u", query="sort list", time=0.0),  # given up
        page("2", "u", query="Sort a list!", time=200.0),  # the same words follow: asked again, not rewritten
        page("3", "u", query="sort a list", time=250.0),  # clicked
        page("4", "u", query="sort a dict", time=260.0),  # an unlike query follows
        page("5", "u", query="weather", time=270.0),  # a like one follows, too late
        page("6", "u", query="weather berlin", time=600.0),  # another unit's follows
        page("7", "v", query="weather", time=610.0),
    ]
    read_pages, _ = joined(reversed(pages), [click("3", "a")], CFG)
    assert read_pages.reformulated_P.tolist() == [True, False, False, False, False, False, False]


def test_metrics_by_hand() -> None:
    pages = [
        page("1", "u", query="one", time=1.0),
        page("2", "u", query="one two", time=2.0),
        page("3", "u", query="other", time=3.0),
        page("4", "v", query="x"),
        page("5", "w", "new", query="x"),
    ]
    clicks = [click("2", "c", 30.0), click("2", "a", math.nan), click("3", "c", 12.0), click("4", "b", 9.0)]
    read_pages, left_out = joined(pages, clicks, CFG)
    assert not left_out
    assert tuple(analysis.METRICS) == config.ONLINE_METRICS
    rates = {metric: analysis.rate_of(read_pages, metric, "old") for metric in analysis.METRICS}
    assert {metric: each.value for metric, each in rates.items()} == pytest.approx(
        {"page_ctr": 3 / 4, "user_ctr": (2 / 3 + 1) / 2, "ctr_at_k": 2 / 4, "dwell": 51 / 3, "reformulation": 1 / 4}
    )
    assert {each.units for each in rates.values()} == {2}
    assert rates["user_ctr"].variance == pytest.approx(np.var([2 / 3, 1], ddof=1) / 2)
    assert math.isnan(analysis.rate_of(read_pages, "page_ctr", "new").value)  # one unit: no variance


def test_segments_are_by_words_and_by_the_share_of_pages_that_queries_as_frequent_make_up() -> None:
    queries = ["a"] * 3 + ["b c d"] * 2 + ["e f g h i"] * 2 + ["j", "k"]
    read_pages, _ = joined([page(str(n), f"u{n}", query=query) for n, query in enumerate(queries)], [], CFG)
    parts = analysis.segments(read_pages)
    assert {name: int(mask(ALL).sum()) for name, mask in parts["query length"].items()} == {
        "1 or 2 words": 5,
        "3 or 4": 2,
        "5 or more": 2,
    }
    # 3 of 9 pages are of the most frequent query: a third. With those that came twice, 7 of 9 are: beyond two thirds.
    assert {name: int(mask(ALL).sum()) for name, mask in parts["query frequency"].items()} == {
        "head": 3,
        "torso": 0,
        "tail": 6,
    }
    for masks in parts.values():
        assert np.sum([mask(ALL) for mask in masks.values()], axis=0).tolist() == [1] * 9


def test_one_page_cannot_decide_a_test_by_its_clicks() -> None:
    pages = [page("1", "u"), page("2", "v", "new")]
    clicks = [
        click("1", "a", dwell=80_000.0),
        click("2", "a", event_id="1"),
        *(click("2", "b", event_id=str(number)) for number in range(2, 200)),
        click("1", "b", time=100.0 + 86_401),
    ]
    read_pages, left_out = joined(pages, clicks, CFG)
    assert read_pages.dwell_P.tolist() == [1800.0, 1000.0]
    assert read_pages.dwelt_P.tolist() == [1, 100]
    assert left_out == {"click long after its page (max_age_s)": 1, "click beyond those of a page (max_clicks)": 99}
    read_pages, left_out = joined(
        pages, clicks, dataclasses.replace(CFG, max_age_s=1e6, max_clicks=1000, max_dwell_s=1e6)
    )
    assert (read_pages.dwell_P.tolist(), left_out) == ([80_010.0, 1990.0], {})


def test_a_wrong_click_does_not_use_up_the_id_of_a_right_one_on_its_page_or_another() -> None:
    pages = [page("1", "u"), page("2", "v", "new")]
    wrong = [click("1", "z", event_id="e"), click("1", "a", event_id="e", position=3), click("9", "a", event_id="e")]
    right = [click("1", "a", event_id="e"), click("2", "a", event_id="e"), click("2", "b", event_id="e")]
    read_pages, left_out = joined(pages, wrong + right, CFG)
    assert read_pages.clicked_P.tolist() == [True, True]
    assert left_out == {
        **{"click on a document that was not shown": 1, "click on a document that stood at another position": 1},
        **{"click without an exposure": 1, "click that came twice": 1},
    }


def test_an_interleaved_click_counts_for_the_team_that_added_the_document() -> None:
    teams = ["old", "new", "old"]
    pages = [page(str(n), unit, "", teams=teams) for n, unit in enumerate(["u", "u", "u", "v", "w", "x"])]
    clicks = [
        click("0", "b"),
        click("1", "b"),
        click("1", "a"),
        click("2", "a"),
        click("2", "c"),
        click("3", "b"),
        click("3", "b", event_id="again"),
        click("3", "a"),
        click("4", "b"),
    ]
    preference = analysed(pages, clicks, MIXED)["preference"]
    assert preference["pages"] == {"wins": 2, "losses": 1, "ties": 3}
    assert preference["units"] == {"wins": 1, "losses": 0, "ties": 3}
    assert preference["share"] == 1.0
    assert preference["p"] == 1.0


# ---- simulated users close the loop -------------------------------------------------------------------------


def needs(count: int, good: float) -> list[click_models.Need]:
    """Return queries whose relevant document old ranks last, and new first in a share `good` of them."""
    result = []
    for number in range(count):
        docs = [f"d{number}-{index}" for index in range(6)]
        better = number >= (1 - good) * count
        runs = {"old": docs, "new": docs[::-1] if better else docs}
        query = " ".join(["sort", "rows", "by", "a", "column"][: 1 + number % 5]) + f" {number}"
        result.append(click_models.Need(query, {docs[5]: 1}, runs))
    return result


def by_position(attraction_PN: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    return click_models.position_based_clicks(attraction_PN, click_models.examination(attraction_PN.shape[1]), draw)


def by_cascade(attraction_PN: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    return click_models.cascade_clicks(attraction_PN, 0.7, draw)


def test_a_better_variant_is_found_better_and_the_long_tail_is_where_it_gains() -> None:
    cfg = dataclasses.replace(CFG, min_units=50)
    shown, clicks = click_models.visit(needs(40, 0.8), cfg, 1200, by_position, np.random.default_rng(0), depth=6)
    content = analysed(shown, clicks, cfg)
    assert content["events"]["left_out"] == {}
    assert not content["mismatch"]["detected"]
    lifts = {row["metric"]: row for row in content["lifts"]}
    assert set(lifts) == set(analysis.METRICS)
    for metric in ("page_ctr", "user_ctr", "ctr_at_k", "dwell"):
        assert lifts[metric]["low"] > 0, metric
        assert lifts[metric]["holm"] < 0.01
    assert lifts["page_ctr"]["always"]["low"] > 0
    assert lifts["reformulation"]["high"] < 0
    by_name = {row["segment"]: row for row in content["segments"]}
    assert by_name["tail"]["lift"] > by_name["head"]["lift"]
    assert by_name["tail"]["holm"] < 0.01 < by_name["head"]["p"]
    looks = content["looks"]["new"]
    assert looks[-1]["p"] < 0.01
    assert all(before["p"] >= after["p"] for before, after in itertools.pairwise(looks))
    assert content["models"] == {"old": ["old"], "new": ["new"]}


def test_users_who_read_until_they_click_show_a_better_order_in_the_first_places_only() -> None:
    # In the cascade model the order says where the first click is, not whether there is one.
    cfg = dataclasses.replace(CFG, min_units=50)
    shown, clicks = click_models.visit(needs(40, 0.8), cfg, 600, by_cascade, np.random.default_rng(0), depth=6)
    lifts = {row["metric"]: row for row in analysed(shown, clicks, cfg)["lifts"]}
    assert lifts["ctr_at_k"]["low"] > 0
    assert lifts["page_ctr"]["p"] > 0.01


def test_interleaving_finds_the_better_variant() -> None:
    shown, clicks = click_models.visit(needs(40, 0.8), MIXED, 300, by_position, np.random.default_rng(0), depth=6)
    content = analysed(shown, clicks, MIXED)
    assert content["events"]["left_out"] == {}
    assert content["preference"]["share"] > 0.6
    assert content["preference"]["p"] < 0.01
    assert report_html.online_headline(content).startswith("Users prefer new: ")


def test_an_interleaved_test_of_equal_variants_finds_a_preference_in_about_five_percent() -> None:
    draw, significant = np.random.default_rng(1), 0
    for run in range(200):
        cfg = dataclasses.replace(MIXED, name=f"aa-{run}")
        shown, clicks = click_models.visit(needs(10, 0.0), cfg, 15, by_position, draw, depth=6)
        p = reference.analyse(shown, clicks, cfg)["preference"]["p"]  # the same, and quicker for so few pages
        significant += p is not None and p < 0.05
    assert significant / 200 <= 0.07


def test_units_lost_on_one_side_are_told_before_any_lift() -> None:
    shown, clicks = click_models.visit(needs(20, 0.8), CFG, 800, by_position, np.random.default_rng(0), depth=6)
    kept = [each for each in shown if each["variant"] == "old" or int(each["unit"][5:]) % 3]
    content = analysed(kept, clicks, CFG)
    assert content["mismatch"]["detected"]
    assert report_html.online_headline(content).startswith("No lift can be trusted")
    assert "Sample ratio mismatch" in Page(report_html.online_test_page(content)).text


def test_too_little_traffic_says_so_and_makes_a_page() -> None:
    for pages in ([], [page("1", "u")], [page("1", "u"), page("2", "v", "new")]):
        content = analysed(pages, [], CFG)
        assert report_html.online_headline(content) == "There is too little traffic to compare anything yet."
        json.dumps(content, allow_nan=False)
        Page(report_html.online_test_page(content))
    assert report_html.online_headline(analysed([], [], MIXED)).startswith("No unit has clicked")


def test_holm_spares_the_metric_that_decides_and_corrects_the_others() -> None:
    cfg = dataclasses.replace(CFG, min_units=50)
    shown, clicks = click_models.visit(needs(20, 0.1), cfg, 400, by_position, np.random.default_rng(2), depth=6)
    content = analysed(shown, clicks, cfg)
    rows = {row["metric"]: row for row in content["lifts"]}
    assert rows["page_ctr"]["holm"] == rows["page_ctr"]["p"]
    assert all(rows[metric]["holm"] > rows[metric]["p"] for metric in ("user_ctr", "ctr_at_k"))


def test_a_look_quotes_the_lowest_p_so_far() -> None:
    # Of the new variant's pages three in four are clicked, of the old one's one in four; then the other way round.
    pages, clicks = [], []
    for moment, better in ((0.0, "new"), (1.0, "old")):
        for number in range(400):
            variant, request = ("old", "new")[number % 2], f"{moment}-{number}"
            pages.append(page(request, request, variant, time=moment))
            if number // 2 % 4 < (3 if variant == better else 1):
                clicks.append(click(request, "a"))
    first, last = analysed(pages, clicks, dataclasses.replace(CFG, looks=2))["looks"]["new"]
    assert first["p"] < 0.01
    assert last["p"] == first["p"]
    assert last["lift"] == 0


def test_a_plan_says_how_much_traffic_each_variant_needs() -> None:
    cfg = dataclasses.replace(CFG, variants={"old": 2.0, "new": 1.0, "third": 1.0})
    pages = analysis.needed(cfg)["pages"]
    assert pages["new"] == pages["third"]
    assert pages["old"] == pytest.approx(2 * pages["new"], rel=1e-3)
    two = analysis.needed(dataclasses.replace(CFG, variants={"old": 2.0, "new": 1.0}))["pages"]
    assert pages["new"] > two["new"]  # of two treatments, each has half of the level
    command = ["plan", f"{ROOT}/configs/experiment.yaml", "expect.ctr=0.3", "expect.lift=0.1"]
    output = CliRunner().invoke(cli.app, command).output
    assert output.splitlines()[:2] == ["encoder: 3,762 pages", "bm25: 3,762 pages"]
    assert analysis.traffic_plan(CFG)[-1].endswith("on a page CTR of 30.0% with power 0.8 at level 0.05")
    assert analysis.traffic_plan(MIXED)[0].startswith("783 units with a preference")


@pytest.mark.parametrize("variants", [{"old": 1.0, "new": 0.0}, {"old": 0.0, "new": 1.0, "other": 1.0}])
def test_a_plan_of_weights_that_leave_nothing_to_compare_is_refused_and_not_for_0_pages(
    variants: dict[str, float],
) -> None:
    with pytest.raises(RradError, match=r"variants: .* to nobody; give the control and one other variant a weight"):
        analysis.traffic_plan(dataclasses.replace(CFG, variants=variants))


# ---- the report ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    shown, clicks = click_models.visit(needs(20, 0.8), CFG, 600, by_position, np.random.default_rng(0), depth=6)
    return analysed(shown, [*clicks, click("gone", "a")], CFG)


def test_the_report_is_well_formed_complete_and_fetches_nothing(content: dict[str, Any]) -> None:
    text = report_html.online_test_page(content)
    html = Page(text)
    assert html.tags.count("svg") == 3
    assert html.tags.count("h1") == 1
    for word in ("page CTR", "CTR@2", "tail", "click without an exposure", "decides", "design effect"):
        assert word in html.text
    ids = [value for name, value in html.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert not {"script", "link", "img", "iframe"} & set(html.tags)
    assert not re.search("https?:", text)
    assert "@import" not in text


def test_markup_in_the_report_that_nothing_has_escaped_does_not_run(content: dict[str, Any], tmp_path: Path) -> None:
    browsers.check_runs_nothing(report_html.online_test_page(content), tmp_path)


def test_what_users_and_configs_call_things_is_escaped(content: dict[str, Any]) -> None:
    text = report_html.online_test_page(json.loads(json.dumps(content).replace('"new"', json.dumps(EVIL))))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "<script" not in report_html.online_test_page({**content, "name": EVIL})


def test_the_headline_says_which_way_it_went(content: dict[str, Any]) -> None:
    headline = report_html.online_headline(content)
    assert headline.startswith("new raises page CTR against old, which is good: +")
    worse = json.loads(json.dumps(content))
    for row in worse["lifts"]:
        row.update(lift=-0.02, low=-0.03, high=-0.01, holm=0.0001)
    assert report_html.online_headline(worse) == (
        "new lowers page CTR against old, which is bad: −2.0\xa0% [−3.0\xa0%, −1.0\xa0%], p < 0.001."
    )
    for row in worse["lifts"]:
        row.update(holm=0.3)
    assert report_html.online_headline(worse).startswith(
        "new does not clearly change page CTR against old: −2.0\xa0%"
    )


# ---- reading, and the stage ---------------------------------------------------------------------------------


def write(uri: str, folder: str, name: str, rows: list[Any], row: type) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=tables.schema_of(row)), sink)
    tables.write_bytes(tables.join(uri, folder, name), sink.getvalue().to_pybytes())


def nullable(row: type) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in tables.schema_of(row)])


def test_rows_of_no_use_are_handed_over_with_their_place_and_the_rest_is_read(tmp_path: Path) -> None:
    bad = [
        page("", "u"),
        page("2", "u", time=math.inf),
        page("3", "u", doc_ids=["a", "a"]),
        page("4", "", "old"),
        page("5", "u", ""),
        page("6", "u", teams=["old"]),
        {**page("7", "u"), "query": None},
        {**page("8", "u"), "doc_ids": ["a", None]},
    ]
    good = [page("9", "u"), page("10", "u", query="")]
    folder = tmp_path / "exposures" / "day=1"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([*bad, good[0]], schema=nullable(Exposure)), folder / "x.parquet")
    pq.write_table(pa.Table.from_pylist([good[1]], schema=nullable(Exposure)), tmp_path / "exposures" / "y.parquet")
    rejected: list[tuple[str, str, str]] = []
    read = list(event_log.read_exposures(str(tmp_path), lambda *row: rejected.append(row)))
    assert read == good
    assert [(id_, reason.rpartition(" (")[0]) for id_, reason, _ in rejected] == [
        ("", "missing value: request_id is empty"),
        ("2", "malformed row: time is no number"),
        ("3", "malformed row: a document is shown twice"),
        ("4", "missing value: unit is empty"),
        ("5", "malformed row: neither variant nor teams"),
        ("6", "malformed row: 1 teams for 3 documents"),
        ("7", "missing value: query is null"),
        ("8", "missing value: doc_ids is null"),
    ]
    assert rejected[0][1].endswith("(x.parquet:1)")
    assert list(event_log.read_click_events(str(tmp_path), lambda *row: rejected.append(row))) == []


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"position": 0}, "position 0"),
        ({"position": 2**31}, "position 2147483648"),
        ({"dwell_s": -1.0}, "dwell_s -1.0"),
        ({"dwell_s": math.inf}, "dwell_s inf"),
        ({"dwell_s": 1e9}, "dwell_s 1000000000.0"),
        ({"time": math.nan}, "time is no number"),
        ({"time": -1.0}, "no seconds since 1970"),
        ({"time": 1.7e12}, "no seconds since 1970"),
        ({"doc_id": ""}, "empty"),
    ],
)
def test_a_click_of_no_use_is_handed_over(tmp_path: Path, keys: dict[str, Any], says: str) -> None:
    rejected: list[tuple[str, str, str]] = []
    rows = [click("1", "a", **keys), click("1", "b", math.nan)]
    write(str(tmp_path), "clicks", "x.parquet", rows, ClickEvent)
    [kept] = event_log.read_click_events(str(tmp_path), lambda *row: rejected.append(row))
    assert kept["doc_id"] == "b"
    assert says in rejected[0][1]


def test_no_exposures_and_a_file_of_other_columns_are_errors_that_name_them(tmp_path: Path) -> None:
    with pytest.raises(RradError, match=r"no .parquet file under exposures/"):
        list(event_log.read_exposures(str(tmp_path), lambda *row: None))
    write(str(tmp_path), "exposures", "x.parquet", [click("1", "a")], ClickEvent)
    with pytest.raises(RradError, match="has no column 'experiment'") as caught, in_stage("experiment"):
        list(event_log.read_exposures(str(tmp_path), lambda *row: None))
    assert caught.value.stage == "experiment"


@pytest.mark.parametrize("where", ["local", "s3"])
def test_the_stage_reads_events_and_writes_a_report(
    where: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(tmp_path) if where == "local" else request.getfixturevalue("s3_uri")
    cfg = dataclasses.replace(CFG, input=f"{base}/events", output=f"{base}/report", max_quarantined=0.1)
    shown, clicks = click_models.visit(needs(20, 0.8), cfg, 200, by_position, np.random.default_rng(0), depth=6)
    half = len(shown) // 2
    write(cfg.input, "exposures", "a.parquet", [*shown[:half], page("", "bad")], Exposure)
    write(cfg.input, "exposures", "b.parquet", shown[half:], Exposure)
    write(cfg.input, "clicks", "a.parquet", [*clicks, clicks[0]], ClickEvent)
    experiment.run(cfg)
    output = capsys.readouterr().out
    assert "new raises page CTR against old" in output
    assert "left out: 1 x click that came twice" in output
    content = json.loads(tables.read_text(f"{cfg.output}/report.json"))
    assert content["pages"] == len(shown)
    assert content["events"]["set_aside"] == {"missing value": 1}
    assert "Set aside as bad rows" in Page(tables.read_text(f"{cfg.output}/report.html")).text
    assert tables.read_manifest(cfg.output).quarantined == {"missing value": 1}
    experiment.run(cfg)
    assert "already done" in capsys.readouterr().out
    strict = dataclasses.replace(cfg, output=f"{base}/strict", max_quarantined=0.0)
    with pytest.raises(RradError, match="raise max_quarantined"):
        experiment.run(strict)
