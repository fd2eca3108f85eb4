"""The search on a served collection, and its page in a headless Chromium, against one endpoint.

Its winner is a decoder that writes reasons, it asks for a key, and an online test runs.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect

from rrad_ray.config import ExperimentDesign, OnlineConfig, SearchConfig, ServeConfig
from rrad_ray.data.bm25 import BM25Index
from rrad_ray.errors import RradError
from rrad_ray.online import assignment, event_log
from rrad_ray.rankers.generation import Explainer
from rrad_ray.serving import errors
from tests import browsers, endpoints
from tests.commands import PATIENCE_S
from tests.heads import free_port

pytestmark = pytest.mark.ray

KEY = "a-key-of-the-tests"
QUERY = "open the files"
EVIL = "<img src=x onerror='window.ran = 1'><script>window.ran = 1</script>"
TITLE = f"files {EVIL}"
CORPUS = {
    "open": "open(path, mode)\nOpens a file and gives it back. Mode 'w' opens the file for writing.",
    "remove": "os.remove(path)\nRemoves one file; of a folder use rmdir.",
    "copy": "shutil.copy(source, target)\nCopies a file, opened or not, " + "and what it holds " * 40,
    "evil": f"{EVIL}\nOpen any file & say {EVIL}",
    "rocket": "\N{ROCKET}\N{ROCKET} launch(file)\n\N{ROCKET} opening a file of \N{ROCKET} rockets",
    "wide": "tell(file)\n" + "w" * 3000 + " opened",
    "one line": "Files that nobody has opened stand on the disk as they are.",
    "socket": "socket.socket()\nA socket connects two processes over a network.",
}
VARIANTS = {"identity": 1.0, "winner": 1.0}
NAME = "encoder-against-bm25"


def unit_of(variant: str) -> str:
    """Return a unit that sees this variant."""
    cfg = ExperimentDesign(NAME, VARIANTS)
    return next(unit for unit in map(str, range(100)) if assignment.assign_variant(unit, cfg) == variant)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a BEIR folder and a file of keys; events will go there too."""
    folder = tmp_path_factory.mktemp("search")
    corpus = [json.dumps({"_id": doc_id, "text": text}) for doc_id, text in CORPUS.items()]
    (folder / "corpus.jsonl").write_text("\n".join(corpus))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": f"{EVIL} a file"}))
    (folder / "keys").write_text(KEY)
    return folder


@pytest.fixture(scope="module")
def client(files: Path, writer: str) -> Iterator[httpx.Client]:
    cfg = ServeConfig(
        writer,
        port=free_port(),
        api_keys=str(files / "keys"),
        max_query_chars=100,
        max_explained=2,
        reason_tokens=8,
        online=OnlineConfig(str(files / "events"), NAME, VARIANTS, journal=str(files / "journal"), flush_s=0.5),
        search=SearchConfig(str(files), TITLE),
    )
    with endpoints.serving(cfg) as url, endpoints.client(url, Authorization=f"Bearer {KEY}") as http:
        yield http


def search(client: httpx.Client, query: str = QUERY, **more: Any) -> httpx.Response:
    response = client.post("/v1/search", json={"query": query, **more})
    assert response.status_code == 200, response.text
    return response


def rows(files: Path, kind: str, wanted: Callable[[Any], bool]) -> list[Any]:
    """Return the rows like this in the event store, once one is there."""
    read = {"exposures": event_log.read_exposures, "clicks": event_log.read_click_events}[kind]
    end, stored = time.monotonic() + PATIENCE_S, list[Any]()
    while not stored and time.monotonic() < end:
        time.sleep(0.2)
        try:
            stored = [row for row in read(str(files / "events"), lambda *bad: pytest.fail(str(bad))) if wanted(row)]
        except RradError:
            continue
    return stored


# ---- the JSON behind the page -------------------------------------------------------------------------------


def test_bm25_finds_and_the_winner_orders_as_a_rerank_request_would(client: httpx.Client) -> None:
    answer = search(client).json()
    documents, results = answer["documents"], answer["results"]
    scores = dict(zip(CORPUS, BM25Index(list(CORPUS.values())).scores(QUERY), strict=True))
    expected = sorted((doc for doc in CORPUS if scores[doc] > 0), key=lambda doc: -scores[doc])
    assert [document["doc_id"] for document in documents] == expected
    assert "socket" not in expected
    texts = [CORPUS[doc] for doc in expected]
    assert [document["text"] for document in documents] == texts
    assert [document["rank"] for document in documents] == list(range(1, len(texts) + 1))
    assert [document["score"] for document in documents] == pytest.approx([scores[doc] for doc in expected])
    reranked = client.post("/v2/rerank", json={"query": QUERY, "documents": texts}).json()["results"]
    assert [result["index"] for result in results] == [result["index"] for result in reranked]
    assert [result["relevance_score"] for result in results] == pytest.approx(
        [result["relevance_score"] for result in reranked], abs=1e-3
    )
    assert [result["rank"] for result in results] == list(range(1, len(texts) + 1))
    assert all(result["moved"] == documents[result["index"]]["rank"] - result["rank"] for result in results)
    assert any(result["moved"] for result in results), "else the tests of what moved would see nothing"
    assert [result["index"] for result in search(client, top_n=2).json()["results"]] == [
        result["index"] for result in results[:2]
    ]


def test_matched_words_are_those_that_bm25_counted_and_add_up_to_its_score(client: httpx.Client) -> None:
    for document in search(client, "Opening the files' files").json()["documents"]:
        assert sum(document["matched"].values()) == pytest.approx(document["score"])
        marked = {document["text"][start:end].lower() for start, end in document["marks"]}
        stems = {"file": "files", "files": "files", "open": "opening", "opens": "opening"}
        stems |= {"opened": "opening", "opening": "opening"}
        assert {stems[word] for word in marked} == set(document["matched"])
        assert len(re.findall(r"(?i)\b(?:files?|open(?:s|ed|ing)?)\b", document["text"])) == len(document["marks"])


def test_a_search_without_a_shared_word_is_empty_and_no_page_of_the_test(client: httpx.Client) -> None:
    for query in ("zebra", "the", "?"):
        response = search(client, query, user="somebody", explain=True)
        assert (response.json()["documents"], response.json()["results"]) == ([], [])
        assert "x-exposure" not in response.headers


def test_a_search_is_a_page_of_the_online_test(client: httpx.Client, files: Path) -> None:
    for variant in VARIANTS:
        response = search(client, user=unit_of(variant))
        assert response.headers["x-variant"] == variant
        answer, exposure = response.json(), response.headers["x-exposure"]
        shown = [answer["documents"][result["index"]]["doc_id"] for result in answer["results"]]
        [row] = rows(files, "exposures", lambda row, wanted=exposure: row["request_id"] == wanted)
        assert (row["variant"], row["doc_ids"], row["query"]) == (variant, shown, QUERY)
        assert any(result["moved"] for result in answer["results"]) == (variant == "winner")
    named = search(client, user=unit_of("identity"), model="winner")
    assert "x-exposure" not in named.headers
    headed = client.post("/v1/search", json={"query": QUERY}, headers={"X-Unit": unit_of("identity")})
    assert headed.headers["x-variant"] == "identity"


def test_a_winner_that_writes_gives_its_reasons(client: httpx.Client, writer: str) -> None:
    answer = search(client, explain=True, top_n=2).json()
    explainer = Explainer.load(writer)
    for result in answer["results"]:
        text = answer["documents"][result["index"]]["text"]
        assert result["reason"] == explainer.explain(QUERY, text, max_tokens=8)
    assert len(answer["results"]) == 2
    refused = client.post("/v1/search", json={"query": QUERY, "explain": True})
    assert (refused.status_code, refused.json()["field"]) == (422, "explain")


def test_models_are_listed_for_those_with_a_key_alone(client: httpx.Client) -> None:
    assert client.get("/v1/models").status_code == 200
    refused = client.get("/v1/models", headers={"Authorization": "Bearer another"})
    assert (refused.status_code, refused.json()["field"]) == (401, "authorization")
    assert "model" not in client.get("/healthz", headers={"Authorization": "Bearer another"}).json()


@pytest.mark.parametrize(
    ("body", "headers", "status", "field"),
    [
        ({}, {}, 422, "query"),
        ({"query": " "}, {}, 422, "query"),
        ({"query": "q" * 101}, {}, 422, "query"),
        ({"query": QUERY, "top_n": 0}, {}, 422, "top_n"),
        ({"query": QUERY}, {"X-Deadline-Ms": "0"}, 504, "deadline"),
        ({"query": QUERY}, {"Authorization": "Bearer another"}, 401, "authorization"),
    ],
)
def test_keys_limits_and_deadlines_are_those_of_rerank(
    client: httpx.Client, body: dict[str, Any], headers: dict[str, str], status: int, field: str
) -> None:
    response = client.post("/v1/search", json=body, headers=headers)
    assert (response.status_code, response.json()["field"]) == (status, field)


# ---- the page -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.chromium() as running:
        expect.set_options(timeout=1000 * PATIENCE_S)
        yield running


@pytest.fixture
def page(browser: Browser, client: httpx.Client) -> Iterator[Page]:
    """Open a page for a new visitor, whose variant is the winner and who has given the key.

    Afterwards nothing must have failed unseen on the page, and it must have asked nobody but the endpoint.
    """
    context = browser.new_context(base_url=str(client.base_url), viewport={"width": 1200, "height": 800})
    context.set_default_timeout(1000 * PATIENCE_S)
    context.add_init_script(f"localStorage.setItem('rrad-unit', '{unit_of('winner')}')")
    context.add_init_script(f"sessionStorage.getItem('rrad-key') || sessionStorage.setItem('rrad-key', '{KEY}')")
    opened, urls, errors_seen = context.new_page(), list[str](), list[str]()
    opened.on("request", lambda request: urls.append(request.url))
    opened.on("pageerror", lambda error: errors_seen.append(str(error)))
    yield opened
    assert opened.evaluate("window.ran") is None, "markup of a document, a query or a title ran"
    context.close()
    assert errors_seen == []
    assert urls
    assert [url for url in urls if not url.startswith((str(client.base_url), "data:"))] == []


def ask(page: Page, query: str = QUERY) -> dict[str, Any]:
    """Type and send a query; return the endpoint's answer once it is shown."""
    if page.url == "about:blank":
        page.goto("/")
    page.get_by_role("searchbox").fill(query)
    with page.expect_response("**/v1/search") as response:
        page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("documents in")
    return response.value.json()


def side_by_side(page: Page) -> None:
    page.get_by_text("Side by side").click()


def test_both_orders_stand_side_by_side_with_what_moved_and_why(page: Page) -> None:
    answer = ask(page)
    side_by_side(page)
    documents, results = answer["documents"], answer["results"]
    by_index = {result["index"]: result for result in results}
    for name, order in (
        ("first", range(len(documents))),
        ("ranked", [result["index"] for result in results]),
    ):
        items = page.locator(f"#{name} li")
        expect(items).to_have_count(len(documents))
        for position, index in enumerate(order):
            document, item = documents[index], items.nth(position)
            expect(item.locator(".rank")).to_have_text(str(position + 1))
            first_line = document["text"].partition("\n")[0]
            title = first_line if "\n" in document["text"] else document["doc_id"]
            expect(item.locator(".title")).to_have_text(title)
            moved = by_index[index]["moved"]
            sign = f"▲ {moved}" if moved > 0 else f"▼ {-moved}" if moved else "="
            expect(item.locator(".move [aria-hidden]")).to_have_text(sign)
            score = document["score"] if name == "first" else by_index[index]["relevance_score"]
            shown = item.locator(".score").inner_text().split()[-1]
            assert float(shown) == pytest.approx(score, abs=0.0051)
            words = [term.split()[0] for term in item.locator(".term").all_inner_texts()]
            assert words == list(document["matched"])
    expect(page.locator("#moves path")).to_have_count(len(results))
    boxes = [page.locator(f"#{name}").bounding_box() for name in ("first", "ranked")]
    assert boxes[0]
    assert boxes[1]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]


def test_matched_words_are_marked_where_they_stand(page: Page) -> None:
    answer = ask(page)
    for position, result in enumerate(answer["results"]):
        document = answer["documents"][result["index"]]
        item = page.locator("#ranked li").nth(position)
        item.locator(".title").click()
        marked = [document["text"][start:end] for start, end in document["marks"]]
        expect(item.locator("mark")).to_have_text(marked)
        body = document["text"].partition("\n")[2] or document["text"]
        assert item.locator(".body").evaluate("(body) => body.textContent") == body


def test_markup_in_documents_queries_and_titles_is_text(page: Page) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Search")  # the page of an endpoint with keys
    ask(page, f"{EVIL} a file")
    evil = page.locator("#ranked li").filter(has_text="say <img src=x")
    expect(evil.locator(".title")).to_have_text(EVIL)
    evil.locator(".title").click()
    expect(evil.locator(".body")).to_have_text(f"Open any file & say {EVIL}")
    expect(page.locator("main img, main script")).to_have_count(0)


def test_an_opened_result_is_a_click_of_the_test_and_the_other_list_is_not(page: Page, files: Path) -> None:
    with page.expect_response("**/v1/search") as response:
        ask(page)
    answer, exposure = response.value.json(), response.value.header_value("x-exposure")
    expect(page.get_by_role("status")).to_contain_text(f"Online test {NAME}: this is winner")
    side_by_side(page)
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request) if "/v1/events" in request.url else None)
    page.locator("#first .title").nth(0).click()
    with page.expect_response("**/v1/events") as accepted:
        page.locator("#ranked .title").nth(1).click()
    assert accepted.value.json() == {"accepted": 1}
    for _ in range(2):
        page.locator("#ranked .title").nth(1).click()  # closed and opened again
    second = answer["documents"][answer["results"][1]["index"]]["doc_id"]
    [row] = rows(files, "clicks", lambda row: row["request_id"] == exposure)
    assert (row["doc_id"], row["position"]) == (second, 2)
    [shown] = rows(files, "exposures", lambda row: row["request_id"] == exposure)
    assert (shown["variant"], shown["unit"]) == ("winner", unit_of("winner"))
    assert shown["doc_ids"].index(second) == 1
    assert len(sent) == 1


def test_the_keyboard_alone_searches_reads_and_compares(page: Page) -> None:
    page.goto("/")
    field, focused = page.get_by_role("searchbox"), page.locator(":focus")
    expect(field).to_be_focused()
    page.keyboard.type(QUERY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("documents in")
    for key in ("ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    second = page.locator("#ranked li").nth(1)
    expect(second.locator(".title")).to_be_focused()
    assert focused.evaluate("(title) => getComputedStyle(title).outlineStyle") == "solid"
    with page.expect_response("**/v1/events"):
        page.keyboard.press("Enter")
    expect(second.locator(".title")).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Escape")
    expect(field).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")  # the views: from re-ranked round to side by side
    expect(page.locator("#first li").first).to_be_visible()
    page.keyboard.press("/")
    expect(field).to_be_focused()
    for key in ("ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
    index = page.locator("#ranked li").nth(0).get_attribute("data-index")
    expect(page.locator(f"#first li[data-index='{index}'] .title")).to_be_focused()


@pytest.mark.parametrize("width", [320, 360, 400])
def test_a_phone_shows_one_list_at_a_time_and_nothing_scrolls_sideways(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    wider = "[document.documentElement.scrollWidth, ...Array.from(document.querySelectorAll('main *:not(.unseen)'),"
    wider += " (part) => part.getBoundingClientRect().right)].filter((right) => right > innerWidth + 0.5)"
    page.goto("/")
    assert page.evaluate(wider) == []
    ask(page)
    for name, other in (("ranked", "first"), ("first", "ranked")):
        page.get_by_text({"ranked": "Re-ranked", "first": "First stage"}[name], exact=True).first.click()
        expect(page.locator(f"#{other}")).to_be_hidden()
        for title in page.locator(f"#{name} .title").all():
            title.click()
        assert page.evaluate(wider) == []
    expect(page.get_by_text("Side by side")).to_be_hidden()


def test_an_address_can_be_shared_and_the_way_back_works(page: Page) -> None:
    page.goto(f"/?q={QUERY.replace(' ', '+')}")
    expect(page.get_by_role("status")).to_contain_text("documents in")
    expect(page.get_by_role("searchbox")).to_have_value(QUERY)
    ask(page, "remove a folder")
    assert page.url.endswith("/?q=remove+a+folder")
    page.go_back()
    expect(page.get_by_role("searchbox")).to_have_value(QUERY)
    expect(page.locator("#ranked li")).to_have_count(7)


def test_reasons_are_shown_where_they_are_asked_for(page: Page) -> None:
    ask(page)
    expect(page.locator(".reason")).to_have_count(0)
    with page.expect_response("**/v1/search") as response:
        page.get_by_label("Reasons").check()
    expect(page.locator("#ranked li")).to_have_count(2)
    reasons = [f"Why: {result['reason']}".split() for result in response.value.json()["results"]]
    assert [text.split() for text in page.locator("#ranked .reason").all_inner_texts()] == reasons
    expect(page.locator("#first li .move").filter(has_text="not among those shown")).to_have_count(5)


def test_a_visitor_without_a_valid_key_is_asked_for_one(page: Page) -> None:
    page.context.add_init_script("sessionStorage.removeItem('rrad-key')")
    page.goto(f"/?q={QUERY}")
    dialog = page.get_by_role("dialog")
    for key, said in (("wrong", ""), (KEY, "The endpoint does not know that key.")):
        expect(dialog).to_be_visible()
        expect(dialog.get_by_role("alert")).to_have_text(said)
        dialog.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("documents in")
    assert page.evaluate("sessionStorage.getItem('rrad-key')") == KEY
    assert KEY not in page.evaluate("JSON.stringify(localStorage)") + page.url


def test_a_visitor_without_any_key_is_told_so(page: Page) -> None:
    page.context.add_init_script("sessionStorage.removeItem('rrad-key')")
    page.goto(f"/?q={QUERY}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#failed")).to_contain_text("The endpoint asks for a key.")


@pytest.mark.parametrize(
    ("refusal", "dialect", "said"),
    [
        (errors.HTTPError(503, "requests", "128 are waiting"), errors.COHERE, "busy; it asks to wait 1 s"),
        (errors.HTTPError(503, "requests", "128 are waiting"), errors.TEI, "busy"),
        (errors.HTTPError(504, "deadline", "it has passed"), errors.COHERE, "took too long"),
        (errors.HTTPError(422, "query", f"must not be {EVIL}"), errors.COHERE, f"query: must not be {EVIL}"),
    ],
    ids=["503", "429", "504", "422"],
)
def test_what_the_endpoint_refuses_is_said_and_can_be_tried_again(
    page: Page, refusal: errors.HTTPError, dialect: errors.Dialect, said: str
) -> None:
    status, body, headers = refusal.render(dialect)
    page.goto("/")
    answer_next(page, lambda route: route.fulfill(status=status, json=body, headers=headers))
    page.get_by_role("searchbox").fill(QUERY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text(said)
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("status")).to_contain_text("documents in")
    expect(page.locator("#failed")).to_be_hidden()


def answer_next(page: Page, otherwise: Callable[[Route], None]) -> None:
    """Answer the next search so, instead of by the endpoint."""
    page.route("**/v1/search", otherwise, times=1)


def test_an_endpoint_that_is_away_and_one_that_finds_nothing_are_told_apart(page: Page) -> None:
    page.goto("/")
    answer_next(page, lambda route: route.abort())
    page.get_by_role("searchbox").fill(QUERY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    page.get_by_role("searchbox").fill("zebra")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("No document shares a word with this query. Try other words.")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_an_answer_that_comes_late_does_not_replace_a_newer_one(page: Page) -> None:
    page.goto("/")
    held: list[Route] = []
    answer_next(page, lambda route: held.append(route))
    page.get_by_role("searchbox").fill("remove a folder")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("Searching…")
    newer = ask(page)
    [late] = held
    late.fulfill(json={"documents": [], "results": [], "model": "late"})
    expect(page.locator("#ranked li")).to_have_count(len(newer["results"]))
    expect(page.locator("#model")).to_have_text(newer["model"])


def test_the_page_may_talk_to_nobody_else(browser: Browser, client: httpx.Client) -> None:
    page = browser.new_page()  # not the fixture's, which counts what is tried too
    page.set_default_timeout(1000 * PATIENCE_S)
    response = page.goto(str(client.base_url))
    assert response is not None
    policy = response.header_value("content-security-policy") or ""
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    refused = page.evaluate(f"fetch('http://127.0.0.1:{free_port()}/').then(() => 'sent', (error) => String(error))")
    assert "TypeError" in refused
    with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:1/x.png'}))")
    page.close()
