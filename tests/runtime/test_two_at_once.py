"""Two endpoints that start on one machine at once answer with their own students from the first request on."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from rrad_ray.config import ServeConfig
from rrad_ray.errors import RradError
from rrad_ray.runtime import cluster, deploy
from rrad_ray.serving.pages import sigmoid
from tests import endpoints
from tests.commands import PATIENCE_S, lines_of_ours
from tests.heads import free_port

BODY: dict[str, Any] = {"query": "open a file", "documents": ["open(path) opens a file", "len(x)", "close it"]}
TIMES, ANSWERS = 10, 20


@dataclass
class Serving:
    """A running `rrad serve`, and the scores that it has answered so far."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    answers: list[list[float]] = field(default_factory=list)
    done: bool = False

    def ask(self, http: httpx.Client) -> None:
        """Ask once. Before it says that it serves it may refuse; from then on it may not."""
        ready = "Ctrl-C ends it" in self.log.read_text()
        assert self.process.poll() is None, self.log.read_text()
        try:
            answer = http.post(f"{self.url}/v2/rerank", json=BODY)
        except httpx.TransportError:
            assert not ready
            return
        assert answer.status_code == 200 or not ready, answer.text
        if answer.status_code == 200:
            results = sorted(answer.json()["results"], key=lambda result: result["index"])
            self.answers.append([result["relevance_score"] for result in results])
        self.done = ready and len(self.answers) >= ANSWERS


def start(student: Path, port: int, log: Path) -> Serving:
    return Serving(endpoints.served(student, port, log), f"http://127.0.0.1:{port}", log)


@pytest.mark.ray
@pytest.mark.slow
def test_two_endpoints_that_start_at_once_never_meet(tmp_path: Path) -> None:
    students, wanted = [tmp_path / "first", tmp_path / "second"], list[list[float]]()
    for seed, folder in enumerate(students):
        ranker = endpoints.student(folder, seed, layers=1)
        wanted.append([sigmoid(score) for score in ranker.score(BODY["query"], BODY["documents"])])
    assert abs(wanted[0][0] - wanted[1][0]) > 0.05, "any answer would do"
    for turn in range(TIMES):
        both = [start(folder, free_port(), tmp_path / f"{folder.name}{turn}.log") for folder in students]
        try:
            until = time.monotonic() + PATIENCE_S
            new = httpx.Limits(max_keepalive_connections=0)  # each request may meet another process that listens
            with httpx.Client(trust_env=False, timeout=60, limits=new) as http:
                while not all(each.done for each in both):
                    assert time.monotonic() < until
                    for each in both:
                        each.ask(http)
                    time.sleep(0.05)
        finally:
            for each in both:
                each.process.terminate()
            ended = [each.process.wait(PATIENCE_S) for each in both]
        for each, scores in zip(both, wanted, strict=True):
            assert each.answers == [pytest.approx(scores, abs=0.02)] * len(each.answers), f"turn {turn}"
            assert "Traceback" not in "\n".join(lines_of_ours(each.log))
        assert ended == [0, 0]


def test_a_port_on_which_another_endpoint_starts_is_refused_until_that_one_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints.student(tmp_path, layers=1)
    cfg = ServeConfig(input=str(tmp_path), port=free_port())

    class Ended(Exception):
        """Raised in place of the first one's cluster."""

    def begin() -> None:
        monkeypatch.setattr(cluster, "start_ray", lambda: pytest.fail("both start"))
        with pytest.raises(RradError, match="another endpoint starts or runs there"):
            deploy.start_endpoint(cfg)
        raise Ended

    for _ in range(2):
        monkeypatch.setattr(cluster, "start_ray", begin)
        with pytest.raises(Ended):
            deploy.start_endpoint(cfg)
