"""Progress lines: what a person reads while millions of prompts run."""

from __future__ import annotations

import pytest

from rrad_ray import progress

pytestmark = pytest.mark.usefixtures("in_judge")


def test_rate_and_eta_leave_out_the_start_and_what_stood_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    lines = progress.Progress(1000, "prompts", done=200, every_s=10.0)
    clock[0] = 160.0  # a minute in which the engine starts
    lines.add(10)
    assert capsys.readouterr().out == "[judge] 210 of 1,000 prompts, 21 %\n"
    clock[0] = 165.0
    lines.add(50)
    assert capsys.readouterr().out == "", "it must not print at every step"
    clock[0] = 170.0
    lines.add(50, "7 tokens")
    assert capsys.readouterr().out == "[judge] 310 of 1,000 prompts, 31 %, 10.0/s, ETA 1:09, 7 tokens\n"


def test_the_last_line_is_always_printed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = progress.Progress(3, "queries")
    lines.add(2)
    assert capsys.readouterr().out == ""
    lines.add(1)
    assert capsys.readouterr().out.startswith("[judge] 3 of 3 queries, 100 %")


def test_a_name_from_a_bucket_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress.say("set aside \x1b]0;title\x07 \x9b2J\rsize\t\u00fc\n")
    assert capsys.readouterr().out == "[judge] set aside \\x1b]0;title\\x07 \\x9b2J\\x0dsize\t\u00fc\n\n"
