"""An endpoint with several models, an online test and a winner that changes: real HTTP, real Parquet."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rrad_ray.config import ExperimentConfig, ExperimentDesign, OnlineConfig, ServeConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation.night_history import record_night
from rrad_ray.online import assignment, event_log
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.serving import winners
from rrad_ray.stages import experiment
from tests import endpoints
from tests.commands import PATIENCE_S, ROOT
from tests.heads import free_port
from tests.metrics import exported
from tests.winners import write as write_winner

pytestmark = pytest.mark.ray

QUERY = "how to open a file for writing"
TEXTS = ["len(x) counts items", "open(path, 'w') opens a file", "a socket connects", "shutil.copy copies a file"]
VARIANTS = {"identity": 1.0, "winner": 1.0}
CACHED = 40
FIGURE = "words of a query"
AT_ONCE = {"X-Deadline-Ms": "0"}  # answers what needs no scoring, and nothing else
Endpoint = tuple[httpx.Client, Path]


def named_winner(folder: Path, system: str, checkpoint: Path, scores: list[float]) -> None:
    write_winner(folder, system, checkpoint, {"query": QUERY, "documents": TEXTS, "scores": scores})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[float]]]:
    """Save two students; return their folder and the scores that each gives `TEXTS`."""
    folder = tmp_path_factory.mktemp("students")
    return folder, {
        name: endpoints.student(folder / name, seed).score(QUERY, TEXTS) for seed, name in enumerate(("one", "two"))
    }


@pytest.fixture(scope="module")
def endpoint(
    trained: tuple[Path, dict[str, list[float]]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Endpoint]:
    files, (folder, scores) = tmp_path_factory.mktemp("endpoint"), trained
    named_winner(files / "winner", "first", folder / "one", scores["one"])
    for number in range(6):
        drift = {FIGURE: float(number + 15 * (number == 5))}
        record_night(str(files / "winner"), f"night {number}", "refused", "", drift=drift)
    online = OnlineConfig(str(files / "events"), "test", VARIANTS, journal=str(files / "journal"), flush_s=0.5)
    others = {"other": str(folder / "two")}
    cfg = ServeConfig(
        str(files / "winner"), port=free_port(), models=others, watch_s=0.2, online=online, cache_entries=CACHED
    )
    with endpoints.serving(cfg) as url, endpoints.client(url) as client:
        yield client, files


def rerank(client: httpx.Client, **more: Any) -> httpx.Response:
    response = client.post("/v2/rerank", json={"query": QUERY, "documents": TEXTS, **more})
    assert response.status_code == 200, response.text
    return response


def order(response: httpx.Response) -> list[int]:
    return [result["index"] for result in response.json()["results"]]


def best(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def rows(files: Path, kind: str, count: int) -> list[Any]:
    """Return the rows in the event store, once there are as many as that."""
    read = {"exposures": event_log.read_exposures, "clicks": event_log.read_click_events}[kind]
    end, stored = time.monotonic() + PATIENCE_S, list[Any]()
    while len(stored) < count and time.monotonic() < end:
        time.sleep(0.2)
        try:
            stored = list(read(str(files / "events"), lambda *bad: pytest.fail(str(bad))))
        except RradError:
            continue
    return stored


# First, because the tests that follow share one endpoint.
def test_a_variant_that_nothing_serves_is_an_error_not_another_winner() -> None:
    online = OnlineConfig("events", "test", {"winner": 1.0, "smal": 1.0})
    with pytest.raises(ValueError, match=r"online.variants='smal': choose one of winner, identity, small"):
        ServeConfig("student", models={"small": "small"}, online=online)


def test_pages_of_two_variants_mixed_say_whose_each_document_is(
    trained: tuple[Path, dict[str, list[float]]], tmp_path: Path
) -> None:
    folder, _ = trained
    online = OnlineConfig(f"{tmp_path}/events", "mix", VARIANTS, "interleave", f"{tmp_path}/journal", flush_s=0.5)
    cfg = ServeConfig(str(folder / "one"), port=free_port(), online=online)
    with endpoints.serving(cfg) as url, endpoints.client(url) as client:
        orders = {tuple(order(rerank(client, user=f"u{number}"))) for number in range(8)}
        assert len(orders) > 1, "a coin decides who goes first"
        for row in rows(tmp_path, "exposures", 8):
            assert row["variant"] == ""
            assert Counter(row["teams"]) == {"identity": 2, "winner": 2}
        repeated = client.post("/v2/rerank", json={"query": QUERY, "documents": ["same", "same"], "user": "u"})
        assert repeated.headers["x-exposure"]
    for row in rows(tmp_path, "exposures", 9):
        assert len(set(row["doc_ids"])) == len(row["doc_ids"])


def test_a_request_names_its_model_and_any_other_name_means_the_winner(
    endpoint: Endpoint, trained: tuple[Path, dict[str, list[float]]]
) -> None:
    client, scores = endpoint[0], trained[1]
    assert best(scores["one"]) != best(scores["two"])
    for name, expected in (("other", scores["two"]), ("two", scores["two"]), ("winner", scores["one"])):
        assert order(rerank(client, model=name)) == best(expected)
    assert order(rerank(client, model="rerank-v3.5")) == best(scores["one"])
    assert rerank(client, model="other").json()["model"] == "two"
    listed = {model["id"]: model["root"] for model in client.get("/v1/models").json()["data"]}
    assert listed == {"winner": "first", "other": "two", "identity": "identity"}


def test_units_see_their_variant_and_what_they_saw_and_clicked_is_read_by_the_experiment(endpoint: Endpoint) -> None:
    client, files = endpoint
    units = [f"user-{number}" for number in range(60)]
    cfg = ExperimentDesign("test", VARIANTS)
    pages = {}
    for unit in units:
        page = rerank(client, user=unit)
        assert page.headers["x-variant"] == assignment.assign_variant(unit, cfg)
        assert page.headers["x-exposure"] == page.json()["id"]
        assert page.json()["model"] == {"identity": "identity", "winner": "first"}[page.headers["x-variant"]]
        pages[unit] = page
    assert order(pages[next(u for u in units if assignment.assign_variant(u, cfg) == "identity")]) == [0, 1, 2, 3]
    plain = rerank(client)
    assert not {"x-variant", "x-exposure"} & set(plain.headers), "nobody to assign"
    headed = client.post("/v2/rerank", json={"query": QUERY, "documents": TEXTS}, headers={"X-Unit": units[0]})
    assert headed.headers["x-variant"] == pages[units[0]].headers["x-variant"]

    seen = {row["request_id"]: row for row in rows(files, "exposures", 61)}
    assert len(seen) == 61
    clicks = []
    for unit, page in pages.items():
        row = seen[page.headers["x-exposure"]]
        assert (row["unit"], row["variant"], row["experiment"]) == (unit, page.headers["x-variant"], "test")
        assert len(set(row["doc_ids"])) == 4
        clicks.append({"request_id": row["request_id"], "doc_id": row["doc_ids"][0], "position": 1, "dwell_s": 3.5})
    answer = client.post("/v1/events", json={"events": clicks})
    assert (answer.status_code, answer.json()) == (200, {"accepted": 60})
    assert client.post("/v1/events", json={"events": clicks[:1]}).status_code == 200, "sent twice"
    assert len(rows(files, "clicks", 61)) == 61
    settled = {"min_units": 2, "looks": 2, "max_quarantined": 0.5}
    output = str(files / "reading")
    experiment.run(ExperimentConfig(str(files / "events"), output, "test", VARIANTS, **settled))
    content = json.loads(Path(output, "report.json").read_text())
    assert content["metrics"]["page_ctr"]


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ({"doc_id": "d", "position": 1}, "events"),
        ({"request_id": "r", "doc_id": "d", "position": 0}, "events"),
        ({"request_id": "r", "doc_id": "d", "position": 1, "dwell_s": -1}, "events"),
        ({"request_id": " ", "doc_id": "d", "position": 1}, "events"),
    ],
)
def test_a_click_that_says_too_little_is_refused(endpoint: Endpoint, event: dict[str, Any], field: str) -> None:
    answer = endpoint[0].post("/v1/events", json={"events": [event]})
    assert answer.status_code == 422
    assert answer.json()["field"] == field


def test_known_scores_are_given_again_and_scored_by_nobody(endpoint: Endpoint) -> None:
    client, body = endpoint[0], {"query": "what no other test asks", "documents": TEXTS}

    def at_once(**more: Any) -> httpx.Response:
        return client.post("/v2/rerank", json={**body, **more}, headers=AT_ONCE)

    first = rerank(client, **body).json()
    scores = {TEXTS[result["index"]]: result["relevance_score"] for result in first["results"]}
    turned = [*TEXTS[::-1], TEXTS[0]]
    again = at_once(documents=turned)
    assert again.status_code == 200
    for result in again.json()["results"]:
        assert result["relevance_score"] == scores[turned[result["index"]]]
    assert at_once().json()["usage"] == first["usage"], "as if they had been read now"
    others = {"query": "another", "documents": [*TEXTS, "new"], "max_tokens_per_doc": 2, "model": "other"}
    for key, value in others.items():
        assert at_once(**{key: value}).status_code == 504, "part of it would have to be scored"
    rerank(client, documents=[f"number {number}" for number in range(CACHED)])
    assert at_once().status_code == 504, "the others took its place"


def test_a_new_winner_goes_live_without_a_failed_request_and_a_wrong_one_does_not(
    endpoint: Endpoint, trained: tuple[Path, dict[str, list[float]]]
) -> None:
    (client, files), (folder, scores) = endpoint, trained
    statuses: Counter[int] = Counter()
    over, numbers = threading.Event(), itertools.count()

    def load() -> None:
        with endpoints.client(str(client.base_url)) as other:
            while not over.is_set():
                new = f"number {next(numbers)}"  # which no cache knows
                answer = other.post("/v2/rerank", json={"query": QUERY, "documents": [*TEXTS, new]})
                statuses[answer.status_code] += 1

    def live() -> str:
        return rerank(client).json()["model"]

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        wrong = [score + 1 for score in scores["two"]]
        named_winner(files / "winner", "wrong", folder / "two", wrong)
        time.sleep(3)
        assert live() == "first", "its scores are not those that it won with"
        named_winner(files / "winner", "second", folder / "two", scores["two"])
        end = time.monotonic() + PATIENCE_S
        while live() != "second" and time.monotonic() < end:
            time.sleep(0.1)
        assert order(rerank(client)) == best(scores["two"])
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    assert statuses[200] > 5


def behind(samples: list[Any]) -> set[float]:
    return {each.value for each in samples if each.name == "ray_rrad_serve_winner_behind"}


def test_prometheus_reads_what_the_dashboard_draws(endpoint: Endpoint) -> None:
    rerank(endpoint[0], user="somebody")
    dashboard = (ROOT / "cluster" / "monitoring" / "endpoint.json").read_text()
    rare = {"ray_rrad_serve_exposures_not_logged_total", "ray_rrad_serve_events_set_aside_total"}
    rare.add("ray_rrad_serve_first_stage_total")
    drawn = set(re.findall(r"ray_rrad_serve_\w+", dashboard)) - rare
    assert len(drawn) == 15
    end, samples = time.monotonic() + PATIENCE_S, list[Any]()
    while not (drawn <= {each.name for each in samples} and behind(samples) == {0}) and time.monotonic() < end:
        samples = exported()  # some seconds old: from when a wrong winner was refused, it may be
        time.sleep(1)
    names = {sample.name for sample in samples}
    assert drawn <= names, "after a winner has gone live, which the test above sees to"
    assert "open a file" not in str(samples), "no query in a metric"
    far = [each for each in samples if each.name == "ray_rrad_serve_night_deviations"]
    assert {each.labels["figure"]: each.value for each in far} == {FIGURE: pytest.approx(18 / 2.5**0.5)}
    assert behind(samples) == {0}


def test_a_winner_that_does_not_score_as_it_did_is_not_served(
    trained: tuple[Path, dict[str, list[float]]], tmp_path: Path, endpoint: Endpoint
) -> None:
    folder, scores = trained
    named_winner(tmp_path / "winner", "it", folder / "one", scores["two"])
    model = winners.find_winner(str(tmp_path / "winner"))
    with pytest.raises(RradError, match=r"'it' scores .* when it won; the checkpoint has changed"):
        winners.check_scores(model, Ranker.load(winners.local_folder(model)).score)
