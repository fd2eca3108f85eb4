"""The report: its content, that it is self-contained, and that a report without optional keys makes a page too."""

from __future__ import annotations

import copy
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from rich.console import Console

from rrad_ray.evaluation import report_html, summary
from rrad_ray.evaluation.report_html import report_page
from tests import browsers

VOID = {"meta", "br", "hr", "img", "input", "link", "wbr", "col"}
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """A parser that collects tags, attributes and text, and fails when a tag is closed that is not the open one."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def system(name: str, kind: str, mean: float, p50: float | None, title: str = "") -> dict[str, Any]:
    metrics = {
        "nDCG@10": {"mean": mean, "low": mean - 0.04, "high": mean + 0.04},
        "MRR@10": {"mean": mean + 0.02, "low": mean - 0.02, "high": mean + 0.06},
        "PNR": dict.fromkeys(("mean", "low", "high"), None if kind == "first_stage" else 2.0),
    }
    latency = None if p50 is None else {"p50": p50, "p99": 1.5 * p50}
    return {
        "system": name, "title": title or name.upper(), "kind": kind, "metrics": metrics, "parameters": 22_713_601,
        "documents_per_s": None, "latency_ms": latency, "latency_of": "re-ranking 20 documents", "note": "a note",
    }  # fmt: skip


@pytest.fixture
def report() -> dict[str, Any]:
    return {
        "name": "demo", "data": "pydoc:", "split": "test", "queries": 6, "first_stage": "bm25",
        "systems": [
            system("bm25", "first_stage", 0.449, 1.4), system("dense", "pre_ranker", 0.4, 1.5),
            system("teacher", "teacher", 0.621, 2190.0), system("encoder", "student", 0.585, 48.2),
            system("decoder", "student", 0.55, None),
        ],
        "tests": [
            {"system": "encoder", "against": "bm25", "delta": 0.136, "p": 1e-9, "wins": 3, "losses": 1, "ties": 2},
        ],
        "per_query": {"bm25": [0, 0.5, 1, 0.2, 0.3, 0], "encoder": [1, 0.5, 0, 0.6, 0.4, 0]},
        "query_texts": ["most gained", "b", "most lost", "d", "e", "f"],
        "training": [
            {"student": "encoder", "steps": [0, 20], "loss": [0.7, None], "dev_steps": [0], "dev_ndcg": [0.5]},
        ],
        "winner": {"system": "encoder", "reason": "best inside the budget", "rule": "p99 <= 1000 ms"},
        "teacher": {"model": "m", "weights": {"bm25": 1.0}, "gate": [{"system": "shuffled", "ndcg": 0.2}],
            "label_quality": {"missing_share": 0.125, "position_bias": -0.0417, "answers": {"ok": 3}},
            "simulated": "engine: simulated",
        },
        "examples": [{"query": "q", "before": ["a", "b"], "after": ["b", "c"], "grades": {"b": 2}}],
        "machine": {"cpu": "a cpu", "cores": 2}, "seconds": {"retrieve": 12.0, "judge": 812.0},
        "created": "2026-11-20T10:12:13",
    }  # fmt: skip


def test_page_is_well_formed_and_complete(report: dict[str, Any]) -> None:
    page = Page(report_page(report))
    assert page.tags.count("svg") == 5
    assert page.tags.count("h1") == 1
    for text in ("most gained", "most lost", "< 0.001", "shuffled", "grade 2", "was 2", "a cpu", "p99 <= 1000 ms"):
        assert text in page.text
    for text in ("left out", "0.125", "position bias", "engine: simulated"):
        assert text in page.text
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_page_fetches_nothing(report: dict[str, Any]) -> None:
    text = report_page(report)
    page = Page(text)
    links = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(link.startswith("#") for link in links)
    assert all(link.startswith("#") for link in re.findall(r"url\(['\"]?([^)]*)", text))
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not re.search("https?:", text)
    assert "@import" not in text


def test_markup_that_nothing_has_escaped_neither_runs_nor_loads_anything(
    report: dict[str, Any], tmp_path: Path
) -> None:
    browsers.check_runs_nothing(report_page(report), tmp_path)


def test_every_reference_in_a_plot_has_its_target(report: dict[str, Any]) -> None:
    text = report_page(report)
    assert set(re.findall(r'(?:href="|url\()#([\w-]+)', text)) <= set(re.findall(r'\sid="([\w-]+)"', text))


def test_titles_are_escaped_everywhere(report: dict[str, Any]) -> None:
    evil = json.loads(json.dumps(report).replace('"ENCODER"', json.dumps(EVIL)).replace('"demo"', json.dumps(EVIL)))
    evil["query_texts"][0] = evil["examples"][0]["query"] = EVIL
    evil["training"][0]["student"] = 'a" onload="x'
    text = report_page(evil)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "onload" not in {name for name, _ in Page(text).attributes}
    assert "<script" not in summary.markdown_table(evil)


def test_mathematics_in_a_title_is_plain_text(report: dict[str, Any]) -> None:
    report["systems"][3]["title"] = r"costs $\frac$ more"
    assert r"costs $\frac$ more" in Page(report_page(report)).text


@pytest.mark.parametrize(
    "systems", [[], [system("bm25", "first_stage", 0.4, None)], [{"system": "x", "metrics": {}}]]
)  # fmt: skip
def test_only_systems(systems: list[dict[str, Any]]) -> None:
    page = Page(report_page({"systems": systems}))
    assert "svg" not in page.tags
    assert page.tags.count("section") == 1
    assert summary.markdown_table({"systems": systems}).count("\n") == 2 + len(systems)


def test_every_other_key_may_be_missing_or_empty(report: dict[str, Any]) -> None:
    figures = {"per_query", "training", "seconds"}  # drawing is slow: once is enough
    for key in set(report) - {"systems"}:
        Page(report_page({k: v for k, v in report.items() if k not in figures | {key}}))
    Page(report_page({key: value if key == "systems" else type(value)() for key, value in report.items()}))
    Page(report_page({key: value if key == "systems" else None for key, value in report.items()}))


def test_nothing_measured_shows_as_a_dash(report: dict[str, Any]) -> None:
    report["tests"][0]["p"] = None
    assert "–" in Page(report_page(report)).text
    row = summary.markdown_table(report).splitlines()[2]
    assert row == "| BM25 | 0.449 [0.409, 0.489] | 0.469 | – | 22.7M | – | 1.4 ms / 2.1 ms |"


def test_headline_of_a_win(report: dict[str, Any]) -> None:
    assert summary.headline(report) == (
        "ENCODER beats the best first stage, BM25: nDCG@10 0.585 against 0.449 (+0.136, p < 0.001), "
        "at 48.2 ms a query against the teacher's 2.19 s (45 times faster)."
    )


def test_headline_of_a_loss_and_of_chance(report: dict[str, Any]) -> None:
    report["tests"][0].update(delta=-0.02, p=0.03)
    assert "ENCODER does not beat the best first stage, BM25" in summary.headline(report)
    assert "(−0.020, p = 0.030)" in summary.headline(report)
    report["tests"][0].update(delta=0.01, p=0.4)
    assert "is not clearly better than" in summary.headline(report)
    report["tests"] = []
    report["systems"][3]["metrics"]["nDCG@10"]["mean"] = 0.3
    assert "does not beat" in summary.headline({**report, "winner": {"system": "encoder"}})


def test_headline_is_about_the_winner_or_else_the_best_student(report: dict[str, Any]) -> None:
    report["winner"]["system"] = "decoder"
    assert summary.headline(report).startswith("DECODER")
    for winner in (None, {"system": "gone"}):
        assert summary.headline({**report, "winner": winner}).startswith("ENCODER")
    report["systems"] = report["systems"][:3]
    assert summary.headline(report) == "BM25 leads with nDCG@10 0.449; no student was evaluated."


def test_a_first_stage_that_won_is_the_title_and_the_figures_compare_the_best_student(report: dict[str, Any]) -> None:
    report["tests"][0].update(delta=-0.136, p=0.2)
    report["systems"][0]["metrics"]["nDCG@10"]["mean"] = 0.721
    report["winner"]["system"] = "bm25"
    page = Page(report_page(report))
    headline = (
        "The first stage wins: BM25 has nDCG@10 0.721, and the best student, ENCODER, 0.585 "
        "(−0.136, p = 0.200, no clear difference)."
    )
    assert headline in page.text
    assert page.tags.count("svg") == 5
    assert "BM25 selected" in page.text
    assert "ENCODER minus BM25, query by query" in page.text
    row = next(line for line in summary.markdown_table(report).splitlines() if "**" in line)
    assert row.startswith("| **BM25**")


def test_labels_of_close_points_do_not_overlap(report: dict[str, Any]) -> None:
    close = [system(f"s{i}", "student", 0.5 + i / 1000, 10 + i / 10, f"a long title {i}") for i in range(8)]
    report["systems"] = close
    with matplotlib.rc_context(report_html.STYLE):
        plot = report_html._quality(report)
        assert plot is not None
        plot.figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in plot.figure.axes[0].texts if text.get_text()]
    assert len(boxes) == 8
    assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if report_html._overlap(a, b) > 1]


def test_same_report_same_bytes(report: dict[str, Any]) -> None:
    before = copy.deepcopy(report)
    assert report_page(report) == report_page(report)
    assert report == before


def test_markdown_has_a_row_per_system_and_marks_one(report: dict[str, Any]) -> None:
    report["systems"][0]["title"] = "a|b\nc"
    lines = summary.markdown_table(report).splitlines()
    assert len(lines) == 2 + len(report["systems"])
    assert lines[2].startswith(r"| a\|b c | ")
    assert [line for line in lines if "**" in line] == [line for line in lines if "ENCODER" in line]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_table_fits_the_terminal(report: dict[str, Any]) -> None:
    report["systems"][4]["title"] = "[bold]a title that goes on and on[/bold] " * 4
    console = Console(width=120, file=io.StringIO())
    console.print(summary.table(report))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 120
    for cell in ("0.585 [0.545, 0.625]", "48.2 ms / 72.3 ms", "[bold]"):
        assert cell in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0012, "1.2 ms"), (0.9999, "1 s"), (2.19, "2.19 s"), (59.97, "1 min 00 s"), (306, "5 min 06 s"),
        (7380, "2 h 03 min"), (None, "–"), (float("nan"), "–"),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert summary.duration(seconds) == text


def test_the_pareto_front_is_what_nothing_is_both_faster_and_better_than() -> None:
    points = [(1.0, 0.3), (2.0, 0.5), (2.0, 0.4), (3.0, 0.45), (4.0, 0.6), (0.5, 0.1)]
    front = report_html._front([(x, y, y, y) for x, y in points])
    assert [line[:2] for line in front] == [(0.5, 0.1), (1.0, 0.3), (2.0, 0.5), (4.0, 0.6)]
