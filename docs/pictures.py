"""Take the pictures of the documentation: `make demo`, then `make pictures`.

    python docs/pictures.py [RUN]    # RUN: the folder of a finished pipeline, runs/demo by default

It opens RUN/report.html and the search page of RUN/winner in a headless Chromium (`apt-get install chromium`). It
writes docs/images/report.png and docs/images/search.png, each below 200 KB.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
SIZE = (1120, 800)  # of the window, in pixels
MOST_BYTES = 200_000
PATIENCE_S = 300.0
QUERY = "add up the elements of an array along an axis"
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--no-proxy-server", "--disable-background-networking"]


@contextlib.contextmanager
def browser_page() -> Iterator[Page]:
    """Open a page of a fixed size in a headless Chromium."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("error: no Chromium; apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        browser.close()


@contextlib.contextmanager
def served(winner: Path) -> Iterator[str]:
    """Serve a winner with the demo's search page; the URL, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    overrides = [f"input={winner}", f"port={port}"]
    command = [sys.executable, "-c", "from rrad_ray.cli import main; main()", "serve", "configs/demo/serve.yaml"]
    process = subprocess.Popen([*command, *overrides], cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + PATIENCE_S
        while not answers(f"{url}/healthz"):
            if process.poll() is not None or time.monotonic() > end:
                sys.exit("error: the endpoint did not start")
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    """Return whether a URL answers with status 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def save(page: Page, name: str) -> None:
    """Write a screenshot with as many colours as keep it below `MOST_BYTES`."""
    path = IMAGES / name
    page.screenshot(path=path)
    for colours in (256, 128, 64, 32):
        if path.stat().st_size < MOST_BYTES and colours < 256:
            break
        with Image.open(path) as image:
            image.convert("RGB").quantize(colours).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


def main() -> None:
    run = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "runs" / "demo").resolve()
    if not (run / "report.html").is_file():
        sys.exit(f"error: {run} has no report.html; run `make demo` first")
    IMAGES.mkdir(exist_ok=True)
    with browser_page() as page:
        page.goto((run / "report.html").as_uri())
        save(page, "report.png")
        with served(run / "winner") as url:
            page.goto(f"{url}/?q={QUERY.replace(' ', '+')}")
            expect(page.get_by_role("status")).to_contain_text("documents in", timeout=1000 * PATIENCE_S)
            save(page, "search.png")


if __name__ == "__main__":
    main()
