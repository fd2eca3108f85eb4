"""A headless Chromium for the tests of pages; where there is none, they are skipped."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from markupsafe import escape
from playwright.sync_api import Browser, sync_playwright

from rrad_ray.evaluation.theme import REPORT_POLICY

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
INTRUDER = "<img src='http://127.0.0.1:9/x.png' onerror='window.ran = 1'><script>window.ran = 1</script>"


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Give a running browser."""
    if not CHROMIUM:
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


def check_runs_nothing(page: str, folder: Path) -> None:
    """Check that a report breaks its own policy nowhere, and that this keeps markup from running which nothing has
    escaped."""
    assert f'<meta http-equiv="Content-Security-Policy" content="{escape(REPORT_POLICY)}">' in page
    (folder / "page.html").write_text(page)
    (folder / "forced.html").write_text(page.replace("<main>", f"<main>{INTRUDER}", 1))
    with chromium() as browser:
        opened, problems = browser.new_page(), list[str]()
        opened.on("console", lambda message: problems.append(message.text))
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.goto(f"file://{folder}/page.html")
        assert opened.evaluate("getComputedStyle(document.querySelector('main')).maxWidth") != "none", "its style"
        assert problems == []
        opened.goto(f"file://{folder}/forced.html")
        assert opened.evaluate("window.ran") is None
        assert len([problem for problem in problems if "Content Security Policy" in problem]) >= 2, "image and script"
