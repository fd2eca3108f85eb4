"""Answers read by a template's own regular expression: the order, and the statuses of the built-in parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.labelling import answer_patterns, label_quality, teacher
from rrad_ray.labelling.answer_patterns import answer_reader
from rrad_ray.labelling.answers import parse_answer
from tests.fixtures import row_of

TAGS = r"<doc>(?P<id>\w+)</doc>"
BRACKETS = r"\[(?P<id>\w+)\]"
PART = r"순위:(?P<order>.*)"


@pytest.mark.parametrize(
    ("pattern", "answer", "ranked", "status"),
    [
        (TAGS, "<doc>3</doc><doc>1</doc>", (2, 0), "ok"),
        (
            TAGS,
            "<think>perhaps <doc>2</doc></think>\n<doc>3</doc>, <doc>1</doc>",
            (2, 0),
            "repaired: thinking removed",
        ),
        (TAGS, "<doc>C</doc> <doc>A</doc>", (2, 0), "ok"),
        (TAGS, "<doc>３</doc> <doc>１</doc>", (2, 0), "ok"),
        (TAGS, "<doc>9</doc> <doc>1</doc> <doc>1</doc>", (0,), "repaired: 1 out of range, 1 repeated"),
        (TAGS, "<doc>x</doc> <doc>2</doc>", (1,), "repaired: 1 out of range"),
        (TAGS, "<doc>3</doc> <doc>1</doc> [2]", (2, 0), "repaired: other identifiers set aside"),
        (TAGS, "<doc>3</doc> <doc>1</doc> <do", (2, 0), "repaired: cut off"),
        (TAGS, "[3] > [1] > [2]", (), "rejected: no match of the template's regex"),
        (TAGS, "", (), "rejected: no match of the template's regex"),
        (TAGS, "<doc>7</doc>", (), "rejected: no identifiers"),
        (BRACKETS, "[3] > [1] > [2]<|im_end|>", (2, 0, 1), "ok"),
        (BRACKETS, "I would say that [3] is what the user is after", (), "rejected: one identifier in prose"),
        (
            BRACKETS,
            "[1] adds numbers to a list\n[2] opens a file and reads it\n[3] sorts the list of numbers",
            (),
            "rejected: echo of the input",
        ),
        (PART, "[2]는 아니다. 순위: [3] > [1]", (2, 0), "repaired: other identifiers set aside"),
        (PART, "순위: 1 > 2 > 3\n다시, 순위: [3] > [1] > [2]", (2, 0, 1), "ok"),
        (PART, "순위: 없음", (), "rejected: no identifiers"),
        (PART, "[3] > [1] > [2]", (), "rejected: no match of the template's regex"),
    ],
)
def test_an_answer_is_read_by_the_regex_and_judged_by_the_parsers_rules(
    pattern: str, answer: str, ranked: tuple[int, ...], status: str
) -> None:
    parsed = answer_reader(pattern)(answer, 3)
    assert (parsed.ranked, parsed.status) == (ranked, status)
    assert sorted((*parsed.ranked, *parsed.missing)) == [0, 1, 2]


@given(
    st.sampled_from([TAGS, BRACKETS, PART, r"(?P<id>.)", r"(?P<id>\d*)", r"(?P<order>.*)|x"]),
    st.lists(
        st.sampled_from(["<doc>", "</doc>", "[", "]", "1", "²", "٣", "9" * 5000, "A", "순위:", " > ", "\n", "x"])
    ),
    st.integers(0, 5),
)
def test_no_answer_raises_or_invents_or_doubles_a_document(pattern: str, pieces: list[str], n: int) -> None:
    parsed = answer_reader(pattern)("".join(pieces), n)
    assert sorted((*parsed.ranked, *parsed.missing)) == list(range(n))


def test_no_regex_means_the_built_in_parser() -> None:
    assert answer_reader("") is parse_answer


def test_an_expression_that_never_ends_costs_its_answer_and_not_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_patterns, "READ_S", 0.1)
    parsed = answer_reader(r"(?:a|a)+(?P<id>[12])")("a" * 60, 3)
    assert parsed.rejection == "the template's regex takes more than 0.1 s"


def test_an_answer_between_tags_is_not_cut_off() -> None:
    assert parse_answer("<answer>[2] > [1]</answer>", 2).status == "ok"
    assert "cut off" in parse_answer("[2] > [1] >", 3).status


def test_verdicts_and_figures_follow_the_reader() -> None:
    row = row_of("q1", ["a", "b", "c"]) | {"task": "order", "shown": [[2, 0, 1]]}
    row["responses"] = ["<doc>3</doc><doc>1</doc>"]
    read = answer_reader(TAGS)
    verdict = teacher.verdict(row, read=read)
    assert verdict.statuses == ["ok"]
    assert verdict.missing == [True, False, False]
    quality = label_quality.LabelQuality(read)
    quality.add(row, verdict)
    assert quality.facts()["missing_share"] == pytest.approx(1 / 3)
