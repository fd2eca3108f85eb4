"""The client libraries of docs/serving.md, LiteLLM with `integrations/litellm.yaml`, every `curl` of the
documentation, and schemathesis, which makes requests from the endpoint's own OpenAPI schema, against a running
endpoint.

The clients have a virtual environment of their own (`locks/clients.txt`), as users have them elsewhere too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rrad_ray.config import SearchConfig, ServeConfig
from tests import endpoints
from tests.commands import PATIENCE_S, ROOT
from tests.docs.markdown import client_snippets, pages
from tests.heads import free_port

pytestmark = pytest.mark.ray

CLIENTS = ROOT / ".venv-clients" / "bin"
QUERY = "how to open a file for writing"
TEXTS = [
    "len(x) is the number of items.",
    "open(path, 'w') opens a file for writing.",
    "A socket connects two processes over a network.",
    "shutil.copy copies a file.",
    "os.remove deletes a file",
]
KEY = "a-key-of-the-tests"
SNIPPETS = client_snippets()
NAMES = [re.split("[ ,]", name)[0] for name, _ in SNIPPETS]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[int]]]:
    """Start an endpoint that asks for a key; give its URL and the order in which it ranks `TEXTS`."""
    folder = tmp_path_factory.mktemp("endpoint")
    scores = endpoints.student(folder / "winner").score(QUERY, TEXTS)
    (folder / "keys").write_text(KEY)
    (folder / "fused").mkdir()  # of which the first stage's scores alone count
    fused = {"system": "fused", "student": "student", "checkpoint": str(folder / "winner")}
    weights = {"student": 0.0, "bm25": 1.0}
    (folder / "fused" / "winner.json").write_text(json.dumps({**fused, "weights": weights, "smoke": {}}))
    for name in ("corpus", "queries"):
        rows = [json.dumps({"_id": str(index), "text": text}) for index, text in enumerate(TEXTS)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    cfg = ServeConfig(
        input=str(folder / "winner"),
        models={"fused": str(folder / "fused")},
        port=free_port(),
        api_keys=str(folder / "keys"),
        search=SearchConfig(str(folder)),
    )
    with endpoints.serving(cfg) as url:
        yield url, sorted(range(len(TEXTS)), key=lambda index: -scores[index])


def run(command: list[str], folder: Path, sent: str = "") -> subprocess.CompletedProcess[str]:
    away = {"HOME": str(folder), "NLTK_DATA": str(folder), "HAYSTACK_TELEMETRY_ENABLED": "False", "NO_PROXY": "*"}
    prices = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # of models, which it asks the network for otherwise
    environment = {**os.environ, **away, **prices, "RRAD_KEY": KEY}
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": PATIENCE_S}
    return subprocess.run(command, input=sent, env=environment, cwd=folder, **options)


def test_the_documentation_has_a_snippet_for_every_client() -> None:
    assert len(SNIPPETS) == 9


@pytest.mark.parametrize(("name", "snippet"), SNIPPETS, ids=NAMES)
def test_a_real_client_gets_the_best_documents(
    endpoint: tuple[str, list[int]], tmp_path: Path, name: str, snippet: str
) -> None:
    url, order = endpoint
    assert "KEY" in snippet
    assert "http://127.0.0.1:8000" in snippet
    adapted = snippet.replace("http://127.0.0.1:8000", url).replace("KEY", KEY)
    kinds = ["cohere", "jina", "text-embeddings-inference"] if name.startswith("rerankers") else ["cohere"]
    for kind in kinds:
        one = adapted.replace('"cohere"', f'"{kind}"') if len(kinds) > 1 else adapted
        if kind == "text-embeddings-inference":
            one = one.replace("/v1/rerank", "/rerank")
        program = f"query, documents = {QUERY!r}, {TEXTS!r}\n{one}\nimport json; print(json.dumps(order))"
        done = run([str(CLIENTS / "python"), "-c", program], tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        assert json.loads(done.stdout.splitlines()[-1]) == order[:3]


ROUTED = """
import asyncio, json, sys
import litellm, yaml

settings = yaml.safe_load(sys.stdin.read())
router = litellm.Router(model_list=settings["model_list"])
asked = dict(model="rerank", query=query, documents=documents, top_n=3, return_documents=True)
results = asyncio.run(router.arerank(**asked)).results
assert [each["document"]["text"] for each in results] == [documents[each["index"]] for each in results]
print(json.dumps([each["index"] for each in results]))
"""
CALLED = """
import json
import litellm

orders = {}
for provider in PROVIDERS:
    asked = dict(model=f"{provider}/winner", query=query, documents=documents, top_n=3, api_base=URL, api_key=KEY)
    orders[provider] = [each["index"] for each in litellm.rerank(**asked).results]
first_stage = [{"text": text, "first_stage": {"bm25": -index}} for index, text in enumerate(documents)]
asked |= dict(model="hosted_vllm/fused", documents=first_stage, top_n=None)
fused = [each["index"] for each in litellm.rerank(**asked).results]
try:
    litellm.rerank(**asked | {"api_key": "no-key"})
except litellm.AuthenticationError as error:
    print(json.dumps([orders, fused, str(error)]))
"""


def litellm(program: str, folder: Path, sent: str = "", **values: object) -> Any:
    """Return the JSON that a program with the real LiteLLM prints last; it says things of its own before."""
    named = {"query": QUERY, "documents": TEXTS, **values}
    text = "".join(f"{name} = {value!r}\n" for name, value in named.items()) + program
    done = run([str(CLIENTS / "python"), "-c", text], folder, sent)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_litellms_router_takes_our_settings_and_gets_the_best_documents(
    endpoint: tuple[str, list[int]], tmp_path: Path
) -> None:
    """The router is what its proxy hands a request to, with the file's `model_list`."""
    url, order = endpoint
    settings = (ROOT / "integrations" / "litellm.yaml").read_text(encoding="utf-8")
    assert litellm(ROUTED, tmp_path, settings.replace("http://rrad.example:8000", url)) == order[:3]


def test_litellm_reads_the_formats_of_other_providers_and_passes_first_stage_scores_on(
    endpoint: tuple[str, list[int]], tmp_path: Path
) -> None:
    url, order = endpoint
    whole = ["huggingface"]  # TEI's format has no `top_n`
    providers = ["hosted_vllm", "cohere", "jina_ai", *whole]
    orders, fused, refusal = litellm(CALLED, tmp_path, PROVIDERS=providers, KEY=KEY, URL=url)
    assert orders == {name: order if name in whole else order[:3] for name in providers}
    assert fused == list(range(len(TEXTS))), "the fused winner ranks by the first stage's scores"
    assert "no valid key" in refusal


CURLS = {
    (path, body)
    for page in pages()
    for block in page.blocks
    for path, body in re.findall(r"curl -s http://127.0.0.1:8000(/\S+) [^']*(?:'[^']*' )?-d '([^']*)'", block.text)
}


def test_every_curl_of_the_documentation_is_answered(endpoint: tuple[str, list[int]]) -> None:
    assert {path for path, _ in CURLS} == {"/v1/events", "/v1/search", "/v2/rerank"}
    with endpoints.client(endpoint[0], Authorization=f"Bearer {KEY}") as client:
        for path, body in CURLS:
            response = client.post(path, content=body)
            if path == "/v1/events":  # no online test runs here; the body itself is well formed
                assert response.status_code == 404
                json.loads(body)
            else:
                assert response.status_code == 200, response.text
                assert response.json()["results"] or path == "/v1/search"


def test_a_wrong_key_is_the_clients_own_error(endpoint: tuple[str, list[int]], tmp_path: Path) -> None:
    snippet = dict(SNIPPETS)["cohere"]
    adapted = snippet.replace("http://127.0.0.1:8000", endpoint[0]).replace("KEY", "no-key")
    done = run([str(CLIENTS / "python"), "-c", f"query, documents = 'q', ['a', 'b']\n{adapted}"], tmp_path)
    assert "UnauthorizedError" in done.stderr
    assert "no valid key" in done.stderr


def test_no_request_that_the_schema_allows_or_forbids_is_a_server_error_and_other_methods_are_a_405(
    endpoint: tuple[str, list[int]], tmp_path: Path
) -> None:
    checks = "not_a_server_error,unsupported_method,allow_header_conformance"
    command = [str(CLIENTS / "st"), "run", f"{endpoint[0]}/openapi.json", "--checks", checks]
    command += ["--header", f"Authorization: Bearer {KEY}", "--max-examples", "40", "--seed", "1", "--mode", "all"]
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]
