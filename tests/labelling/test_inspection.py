"""`rrad inspect OUTPUT`: a page over a sample of answers or labels, escaped, self-contained, of use in a browser."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import expect

from rrad_ray import tables
from rrad_ray.cli import app
from rrad_ray.config import JudgeConfig, LabelConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation.theme import source_hash
from rrad_ray.labelling.inspection import inspection_page
from rrad_ray.rows import JudgeOutput
from rrad_ray.stages import label
from rrad_ray.tables.sampling import drawn_rows
from tests import browsers
from tests.evaluation.test_report import EVIL, Page
from tests.fixtures import row_of, table_of

GOOD, MENDED, EMPTY = "[1] > [2] > [3]", "<think>well</think>[1] > [2] > [3]", "I cannot say."


def judged_row(number: int, answers: list[str], **changes: Any) -> dict[str, Any]:
    """A row of three documents whose answers saw them in turned orders: `GOOD` twice is one vote each way."""
    row = row_of(f"q{number}", [f"adds numbers {number}", "opens files", "sorts"])
    shown = [[0, 1, 2], [2, 1, 0], [1, 0, 2]][: len(answers)]
    judged = {"task": "order", "model": "bundled:smollm2-135m-instruct", "shown": shown, "responses": answers}
    counts = {"judge_scores": [], "reasons": [], "truncated": 0, "prompt_tokens": 90, "generated_tokens": 9}
    return {**row, "query": f"query number {number}", **judged, **counts, **changes}


def output_of(folder: Path, rows: list[dict[str, Any]], commit: bool = True, **options: Any) -> str:
    """The output of judge with these rows, two to a part."""
    values = {"input": table_of(folder / "candidates", [row_of("q", ["one"])]), "output": f"{folder}/judged"}
    cfg = JudgeConfig(**{**values, "task": "order", "repeats": 2, "engine": "echo", **options})
    out = tables.Output("judge", cfg, JudgeOutput, {})
    out.write_all(rows, 2)
    if commit:
        out.commit(lineage=tables.Lineage(judge=tables.JudgeFacts(cfg.model)))
    return out.uri


def queries_of(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_everything_is_escaped_and_only_the_pages_own_script_may_run(tmp_path: Path) -> None:
    evil = {"query": EVIL, "query_id": EVIL, "doc_ids": [EVIL, "b", "c"], "texts": [EVIL] * 3, "reasons": [EVIL] * 3}
    output = output_of(
        tmp_path, [judged_row(0, [EVIL, f"{EVIL} [2] > [1]"], **evil, qrel_ids=[EVIL], qrel_grades=[1])]
    )
    page = inspection_page(output, 10)
    parsed = Page(page)
    assert EVIL not in page
    assert parsed.text.count(EVIL) > 12, "query, id, texts, reasons, answers and prompts"
    assert parsed.tags.count("script") == parsed.tags.count("style") == 1
    style, script = (re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL) for tag in ("style", "script"))
    assert style is not None and script is not None  # noqa: PT018
    [policy] = [value for name, value in parsed.attributes if name == "content" and "default-src" in value]
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src {source_hash(script[1])};" in policy
    assert f"style-src {source_hash(style[1])};" in policy
    assert not any(name in ("src", "style") or name.startswith("on") for name, _ in parsed.attributes)
    assert all(value.startswith("#") for name, value in parsed.attributes if name == "href")


def test_the_worst_are_found_by_status_disagreement_and_qrels(tmp_path: Path) -> None:
    turned = "[3] > [2] > [1]"  # of the second order: the same preferences as GOOD of the first
    judged = {"qrel_ids": ["q3-2"], "qrel_grades": [2]}
    rows = [judged_row(0, [GOOD, turned]), judged_row(1, [MENDED, turned]), judged_row(2, [GOOD, EMPTY])]
    rows += [judged_row(3, [GOOD, turned], **judged), judged_row(4, [GOOD, GOOD], split="dev")]
    output = output_of(tmp_path, rows)
    assert queries_of(inspection_page(output, 2, "status")) == ["query number 2", "query number 1"]
    assert queries_of(inspection_page(output, 1, "disagreement")) == ["query number 4"]
    assert queries_of(inspection_page(output, 5, "qrels")) == ["query number 3"]
    assert queries_of(inspection_page(output, 5, split="dev")) == ["query number 4"]
    assert set(queries_of(inspection_page(output, 5))) == {f"query number {number}" for number in range(5)}
    page = inspection_page(output, 5, query_ids=["q2", "q0"])
    assert queries_of(page) == ["query number 0", "query number 2"]
    text = " ".join(Page(page).text.split())
    assert "Answer 2 rejected no identifiers I cannot say." in text
    assert "Read as [1] q0-0 [2] q0-1 [3] q0-2" in text
    assert "[1] adds numbers 0" in text, "the prompt, made again"
    with pytest.raises(RradError, match="no query q7, q8 there; name queries of this table"):
        inspection_page(output, 5, query_ids=["q8", "q2", "q7"])


def test_of_many_parts_few_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = output_of(tmp_path, [judged_row(number, [GOOD]) for number in range(60)], repeats=1)
    opened: list[str] = []
    real = pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda file, **options: opened.append(file) or real(file, **options))
    names = tables.part_names(output)
    draws = list(drawn_rows(output, names, JudgeOutput, 5, random.Random(1)))
    assert len(draws) == len(opened) == len({name for name, _ in draws}) == 5
    assert draws == list(drawn_rows(output, names, JudgeOutput, 5, random.Random(1)))
    assert len(list(drawn_rows(output, names, JudgeOutput, 1000, random.Random(1)))) == 60


def test_of_a_split_as_many_are_drawn_as_are_wanted_wherever_it_stands(tmp_path: Path) -> None:
    rows = [judged_row(number, [GOOD], split="dev" if number in (6, 7, 40) else "train") for number in range(60)]
    output = output_of(tmp_path, rows, repeats=1)  # two of them share a part of thirty
    assert sorted(queries_of(inspection_page(output, 5, split="dev"))) == [
        "query number 40",
        "query number 6",
        "query number 7",
    ]
    own = tmp_path / "own"
    own.mkdir()
    parts = [pq.read_table(f"{output}/{name}") for name in tables.part_names(output)]
    pq.write_table(pa.concat_tables(parts), own / "rows.parquet", row_group_size=5)
    for seed in range(5):
        drawn = drawn_rows(str(own), ["rows.parquet"], JudgeOutput, 5, random.Random(seed), "dev")
        assert [row["query_id"] for _, row in drawn] in (["q6", "q7"], ["q40"])


def test_labels_show_the_answers_below_them_as_long_as_they_are_there(tmp_path: Path) -> None:
    rows = [judged_row(number, [GOOD, "[3] > [2]"]) for number in range(4)]
    output = output_of(tmp_path, rows)
    labels = label.run(LabelConfig(input=output, output=f"{tmp_path}/labels"))
    page = " ".join(Page(inspection_page(labels, 9)).text.split())
    assert "4 of 4 queries, drawn at random" in page
    assert "Read as [3] q0-0 [2] q0-1 Left out [1] q0-2" in page, "of the second answer, which saw them turned"
    shutil.rmtree(output)
    page = inspection_page(labels, 9)
    assert "Answer 1" not in page
    assert "No prompt is shown" in page
    assert f"{output} is not there any more" in page
    candidates = table_of(tmp_path / "some", [row_of("q", ["one", "two"])])
    free = label.run(LabelConfig(input=candidates, output=f"{tmp_path}/free", weights={"bm25": 1.0}))
    assert "No prompt is shown: no LLM was asked." in inspection_page(free, 9)
    with pytest.raises(RradError, match="is the output of retrieve"):
        inspection_page(candidates, 9)


def test_parts_of_a_run_that_was_stopped_can_be_looked_at(tmp_path: Path) -> None:
    page = inspection_page(output_of(tmp_path, [judged_row(0, [GOOD, GOOD])], commit=False), 9)
    assert "Judge output, not finished" in page
    with pytest.raises(RradError, match="no output of a stage stands there"):
        inspection_page(str(tmp_path), 9)


def test_a_row_that_does_not_belong_together_is_not_shown_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [judged_row(0, ["[2] > [1]"]), judged_row(1, ["[2] > [1]"], responses=[])]
    page = inspection_page(output_of(tmp_path, rows), 5)
    assert queries_of(page) == ["query number 0"]
    assert "query q1 is not shown: ragged row: 0 responses" in capsys.readouterr().out


def test_a_template_that_was_changed_since_shows_no_prompt(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("task: order\nmessages: [{role: user, content: 'Rank: {query} {documents}'}]\n")
    output = output_of(tmp_path, [judged_row(0, [GOOD, GOOD])], template=str(own))
    assert "Rank: query number 0" in inspection_page(output, 9)
    own.write_text("task: order\nmessages: [{role: user, content: 'Order: {query} {documents}'}]\n")
    assert f"the template {own} has been changed since" in inspection_page(output, 9)


def test_scores_and_reasons_are_shown(tmp_path: Path) -> None:
    scored = {"task": "likelihood", "shown": [], "judge_scores": [-3.25, -1.5, -2.0], "reasons": ["", "adds", ""]}
    output = output_of(tmp_path, [judged_row(0, [], **scored)], task="likelihood", repeats=1)
    text = " ".join(Page(inspection_page(output, 9)).text.split())
    assert "1q0-1opens filesadds \N{MINUS SIGN}1.50 \N{MINUS SIGN}1.5002 2q0-2" in text, (
        "target, score and place in the input"
    )
    assert "Prompt of one documenttext" in text


def test_in_a_browser_it_filters_searches_and_moves_by_keys(tmp_path: Path) -> None:
    output = output_of(tmp_path, [judged_row(number, [GOOD, EMPTY if number == 2 else GOOD]) for number in range(4)])
    command = ["inspect", output, "--page", f"{tmp_path}/page.html"]
    app(command, standalone_mode=False)
    with browsers.chromium() as browser:
        page, problems = browser.new_page(), list[str]()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"file://{tmp_path}/page.html")
        title, count = page.locator("article:visible h2"), page.locator("#count")
        first = title.inner_text()
        page.keyboard.press("j")
        expect(title).not_to_have_text(first)
        page.keyboard.press("k")
        expect(title).to_have_text(first)
        page.keyboard.press("p")
        expect(page.locator("article:visible details[open]")).to_have_count(2)
        page.keyboard.press("/")
        page.keyboard.type("numbers q3-0")
        expect(count).to_have_text("1 of 4")
        expect(title).to_have_text("query number 3")
        page.fill("#words", "")
        page.select_option("#status", "rejected")
        expect(title).to_have_text("query number 2")
        page.fill("#words", "nothing says this")
        expect(page.locator("#none")).to_be_visible()
        assert problems == [], "such as a breach of the page's policy"


def test_labels_with_fewer_documents_than_the_judge_saw_show_each_ones_own_score_and_place(tmp_path: Path) -> None:
    scored = {"task": "likelihood", "shown": [], "judge_scores": [-3.25, -1.5, -2.0]}
    grades = {"qrel_ids": ["q0-1", "q0-2"], "qrel_grades": [0, 2]}
    output = output_of(tmp_path, [judged_row(0, [], **scored, **grades)], task="likelihood", repeats=1)
    labels = label.run(LabelConfig(input=output, output=f"{tmp_path}/labels", targets="grades"))
    text = " ".join(Page(inspection_page(labels, 9)).text.split())
    assert "-3.25" not in text.replace("\N{MINUS SIGN}", "-"), "of the document that was dropped"
    assert "1q0-2sorts" in text
    assert text.index("\N{MINUS SIGN}2.00") < text.index("q0-1") < text.index("\N{MINUS SIGN}1.50")
    ordered = output_of(tmp_path / "order", [judged_row(0, [GOOD, "[3] > [1]"], **grades)])
    labels = label.run(LabelConfig(input=ordered, output=f"{tmp_path}/ordered", targets="grades"))
    text = " ".join(Page(inspection_page(labels, 9)).text.split())
    assert "Read as [3] q0-0 [1] q0-2 Left out [2] q0-1" in text
