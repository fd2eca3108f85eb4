"""Endpoints for tests, and the student that they serve."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import ray
import torch

from rrad_ray.config import ServeConfig
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.runtime import deploy
from rrad_ray.tables import checkpoints
from tests.commands import PATIENCE_S, ROOT, RRAD


def student(folder: str | Path, seed: int = 0, *, layers: int = 0) -> Ranker:
    """Save a bundled encoder with a fresh head in the folder, and return it as loaded from there."""
    torch.manual_seed(seed)
    ranker = Ranker.encoder(checkpoints.resolve("bundled:all-minilm-l6-v2"), max_length=64, layers=layers)
    ranker.model.classifier.weight.data.mul_(20)  # with a fresh head alone all documents score almost the same
    ranker.save(folder)
    return Ranker.load(str(folder))


@contextlib.contextmanager
def serving(cfg: ServeConfig) -> Iterator[str]:
    """Start an endpoint and give its URL; it ends with the block, and Ray with it if it began here."""
    started_here = not ray.is_initialized()
    url = deploy.start_endpoint(cfg)
    try:
        yield url
    finally:
        deploy.stop_endpoint()
        if started_here:
            ray.shutdown()


def served(source: str | Path, port: int, log: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start `rrad serve` of a student or a store in a process of its own, which writes to a log."""
    command = [*RRAD, "serve", "configs/serve.yaml", f"input={source}", f"port={port}", *options]
    with log.open("wb") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)


def client(url: str, **headers: str) -> httpx.Client:
    sent = {"Content-Type": "application/json", **headers}
    return httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False, headers=sent)
