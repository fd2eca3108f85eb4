"""What search engines and other programs send by the files of `integrations/`, and read of the endpoint's answer.

Each sender and reader here does what the program's own source does (read in November 2026): ml-commons and
neural-search of OpenSearch, the custom inference service of Elasticsearch, LiteLLM's hosted_vllm, LibreChat's agents,
Open WebUI and Dify's plugin. Vespa's application is checked by its documentation's form; its tokens and its model are
tried in tests/stages/test_export.py.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonpath_ng.ext import parse as json_path

from rrad_ray.serving.pages import sigmoid
from tests.asgi import Answer, ask
from tests.commands import ROOT
from tests.integrations.endpoint import KEY, application, keyed_replica
from tests.serving.test_service import Replica

FILES = ROOT / "integrations"
QUERY, TEXTS = 'say "hello" \\ in Zürich\n', ["a", 'bbb "b" {x}\t', "cc é"]
SCORES = [sigmoid(len(text)) for text in TEXTS]

Sent = tuple[str, dict[str, str], str]  # URL, headers, body


@pytest.fixture
def served(tmp_path: Path) -> Replica:
    return keyed_replica(tmp_path)


def post(served: Replica, sent: Sent) -> Answer:
    """Send a request to the endpoint's paths, as the endpoint has them."""
    url, headers, body = sent
    assert url.startswith("http://rrad.example:8000/")
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    answer = asyncio.run(ask(application(served), "POST", urlsplit(url).path, body.encode(), headers=encoded))
    assert answer.status == 200, answer.body
    return answer


def content_of(name: str) -> Any:
    text = (FILES / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


def filled(template: str, values: dict[str, str]) -> str:
    """Replace each `${name}` of a template by its value."""
    return re.sub(r"\$\{([^}]+)\}", lambda match: values[match[1]], template)


# ---- search engines -----------------------------------------------------------------------------------------


def opensearch_sends(query: str, texts: list[str]) -> Sent:
    """Return what ml-commons makes of a connector and of a `rerank` processor's query and texts."""
    connector = content_of("opensearch/connector.json")
    [action] = connector["actions"]
    assert action["pre_process_function"] == "connector.pre_process.cohere.rerank"
    values = {name: json.dumps(value)[1:-1] for name, value in connector["parameters"].items()}
    values |= {"query": json.dumps(query, ensure_ascii=False)[1:-1], "top_n": str(len(texts))}
    values["documents"] = json.dumps(texts, ensure_ascii=False)
    body = filled(action["request_body"], {f"parameters.{name}": value for name, value in values.items()})
    secrets = {f"credential.{name}": value for name, value in connector["credential"].items()}
    return action["url"], {name: filled(value, secrets) for name, value in action["headers"].items()}, body


def opensearch_reads(answer: Answer, count: int) -> list[float]:
    """Return the scores, in the order of the documents, as `connector.post_process.cohere.rerank` takes them."""
    results = answer.content["results"]
    assert len(results) == count, "one score for each document, or a hit has none"
    assert all(type(result["index"]) is int for result in results)
    assert all(type(result["relevance_score"]) is float for result in results), "Java casts it to a Double"
    scores = {result["index"]: result["relevance_score"] for result in results}
    return [scores[index] for index in range(count)]


def test_opensearch_gets_a_score_for_each_hit(served: Replica) -> None:
    assert opensearch_reads(post(served, opensearch_sends(QUERY, TEXTS)), len(TEXTS)) == SCORES


@given(st.text(min_size=1).filter(str.strip), st.lists(st.text(), min_size=1, max_size=5))
def test_opensearchs_body_is_json_for_any_text(query: str, texts: list[str]) -> None:
    body = json.loads(opensearch_sends(query, texts)[2])
    assert body == {"query": query, "documents": texts, "top_n": len(texts), "model": "winner"}


def test_opensearchs_pipeline_and_search_name_the_same_field_and_the_querys_text() -> None:
    [processor] = content_of("opensearch/pipeline.json")["response_processors"]
    search = content_of("opensearch/search.json")
    [field] = processor["rerank"]["context"]["document_fields"]
    value = search
    for key in search["ext"]["rerank"]["query_context"]["query_text_path"].split("."):
        value = value[key]
    assert value == search["query"]["match"][field]["query"]
    assert content_of("opensearch/model.json")["function_name"] == "remote"
    assert processor["rerank"]["ml_opensearch"].keys() == {"model_id"}
    [trusted] = content_of("opensearch/settings.json")["persistent"][
        "plugins.ml_commons.trusted_connector_endpoints_regex"
    ]
    assert re.fullmatch(trusted, content_of("opensearch/connector.json")["actions"][0]["url"])


def elasticsearch_sends(query: str, texts: list[str]) -> Sent:
    """Return what Elasticsearch's custom service makes of its settings, a query and the texts of a window."""
    settings = content_of("elasticsearch/inference.json")["service_settings"]
    values = {"query": json.dumps(query, ensure_ascii=False), "input": json.dumps(texts, ensure_ascii=False)}
    headers = {name: filled(value, settings["secret_parameters"]) for name, value in settings["headers"].items()}
    return settings["url"], headers, filled(settings["request"], values)


def test_elasticsearch_reads_indices_and_scores_by_its_paths(served: Replica) -> None:
    answer = post(served, elasticsearch_sends(QUERY, TEXTS))
    paths = content_of("elasticsearch/inference.json")["service_settings"]["response"]["json_parser"]
    assert paths.keys() == {"reranked_index", "relevance_score"}
    index, score = ([match.value for match in json_path(paths[name]).find(answer.content)] for name in paths)
    assert dict(zip(index, score)) == dict(enumerate(SCORES))
    assert min(score) > 0, "below 0 Elasticsearch would bend the scores"


@given(st.text(min_size=1).filter(str.strip), st.lists(st.text(), min_size=1, max_size=5))
def test_elasticsearchs_body_is_json_for_any_text(query: str, texts: list[str]) -> None:
    assert json.loads(elasticsearch_sends(query, texts)[2]) == {"query": query, "documents": texts, "model": "winner"}


def test_elasticsearchs_searches_ask_the_endpoint_for_the_query_that_they_search() -> None:
    reranker = content_of("elasticsearch/search.json")["retriever"]["text_similarity_reranker"]
    assert reranker["retriever"]["standard"]["query"]["match"] == {reranker["field"]: reranker["inference_text"]}
    lexical, student = content_of("elasticsearch/search-fused.json")["retriever"]["linear"]["retrievers"]
    assert student["retriever"]["text_similarity_reranker"] == reranker
    assert lexical["retriever"] == reranker["retriever"]


def blocks(name: str, text: str) -> dict[str, str]:
    """Return what stands in the braces of each element of a kind in a Vespa schema, by the element's name."""
    inside = {}
    for match in re.finditer(rf"\b{name} ([\w-]+)[^{{\n]*{{", text):
        depth, end = 1, match.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        inside[match[1]] = text[match.end() : end - 1]
    return inside


def vespa_schema() -> str:
    text = (FILES / "vespa" / "schemas" / "passage.sd").read_text(encoding="utf-8")
    return re.sub(r"#.*", "", text)


def test_vespas_application_has_the_parts_that_it_names() -> None:
    services = ElementTree.parse(FILES / "vespa" / "services.xml").getroot()
    assert (services.tag, services.get("version")) == ("services", "1.0")
    container, content = services.find("container"), services.find("content")
    assert container is not None
    assert content is not None
    assert [child.tag for child in container] == ["component", "search", "document-api"]
    component, model = container.find("component"), container.find("component/model")
    assert component is not None
    assert model is not None
    assert component.attrib == {"id": "tokenizer", "type": "hugging-face-tokenizer"}
    assert model.attrib == {"path": "models/tokenizer.json"}
    assert [each.attrib for each in content.iterfind("documents/document")] == [{"type": "passage", "mode": "index"}]
    assert content.findtext("min-redundancy") == "1"
    assert content.find("nodes/node[@distribution-key='0']") is not None
    assert "| embed tokenizer | attribute" in blocks("schema", vespa_schema())["passage"]


def test_vespas_schema_is_whole_and_its_profiles_use_what_it_declares() -> None:
    text = vespa_schema()
    [(name, schema)] = blocks("schema", text).items()
    assert text.count("{") == text.count("}")
    assert (FILES / "vespa" / "schemas" / f"{name}.sd").exists(), "Vespa asks for a file of the schema's name"
    assert list(blocks("document", schema)) == [name]
    fields, profiles = blocks("field", schema), blocks("rank-profile", schema)
    assert list(fields) == ["title", "body", "tokens"]
    assert blocks("fieldset", schema)["default"].split() == ["fields:", "title,", "body"]
    student = profiles["student"]
    [model] = blocks("onnx-model", student).values()
    inputs = dict(re.findall(r"input (\w+): (\w+)", model))
    assert list(inputs) == ["input_ids", "attention_mask", "token_type_ids"], "those of the exported model"
    functions = blocks("function", student)
    assert {*inputs.values(), "bm25_score", "student_score"} == functions.keys()
    assert "models/model.onnx" in model
    assert re.findall(r"output (\w+): (\w+)", model) == [("logits", "score")]
    assert "onnx(student).score{d0:0,d1:0}" in functions["student_score"]
    for attribute in re.findall(r"attribute\((\w+)\)", student):
        assert "attribute" in fields[attribute]
    for field in re.findall(r"bm25\((\w+)\)", student):
        assert "enable-bm25" in fields[field]
    assert "rank-profile fused inherits student" in schema
    summed = re.findall(r"normalize_linear\((\w+)\)", profiles["fused"])
    assert summed == ["bm25_score", "student_score"]


def test_vespas_tensors_have_one_length_and_its_query_sets_the_input() -> None:
    schema = vespa_schema()
    lengths = set(re.findall(r"token(?:InputIds|AttentionMask|TypeIds)\((\d+), query\(q_tokens\)", schema))
    assert lengths == set(re.findall(r"field tokens type tensor<float>\(d0\[(\d+)\]\)", schema)) == {"128"}
    query = content_of("vespa/query.json")
    assert query["ranking"] in blocks("rank-profile", schema)
    assert query["input.query(q_tokens)"] == "embed(tokenizer, @query)"
    assert "query(q_tokens) tensor<float>(d0[32])" in schema
    assert query["yql"] == f"select * from {next(iter(blocks('document', schema)))} where userQuery()"
    assert query["query"].strip()


# ---- gateways and chats -------------------------------------------------------------------------------------


def bearer(body: dict[str, Any]) -> tuple[dict[str, str], str]:
    return {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}, json.dumps(body)


def test_litellm_gets_scores_and_texts(served: Replica) -> None:
    [model] = content_of("litellm.yaml")["model_list"]
    provider, _, name = model["litellm_params"]["model"].partition("/")
    assert (provider, model["model_info"]["mode"]) == ("hosted_vllm", "rerank")
    body = {"model": name, "query": QUERY, "documents": TEXTS, "top_n": 2, "return_documents": True}
    answer = post(served, (f"{model['litellm_params']['api_base']}/rerank", *bearer(body)))
    results = [
        (each["index"], each["relevance_score"], each["document"]["text"]) for each in answer.content["results"]
    ]
    assert results == [(index, SCORES[index], TEXTS[index]) for index in (1, 2)]
    assert answer.content["usage"]["total_tokens"] > 0


def test_librechat_gets_texts_best_first_from_its_jina(served: Replica) -> None:
    text = (FILES / "librechat.yaml").read_text(encoding="utf-8")
    settings = content_of("librechat.yaml")["webSearch"]
    assert settings == {
        "jinaApiKey": "${JINA_API_KEY}",
        "jinaApiUrl": "${JINA_API_URL}",
        "rerankerType": "jina",
    }
    [url] = re.findall(r"JINA_API_URL=(\S+)", text)
    body = {"model": "jina-reranker-v2-base-multilingual", "query": QUERY, "top_n": 2, "documents": TEXTS}
    answer = post(served, (url, *bearer({**body, "return_documents": True})))
    assert [each["document"]["text"] for each in answer.content["results"]] == [TEXTS[1], TEXTS[2]]
    assert {"model", "usage"} <= answer.content.keys()


def test_open_webui_gets_a_score_for_each_document(served: Replica) -> None:
    lines = (FILES / "open-webui.env").read_text(encoding="utf-8").splitlines()
    settings = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert (settings["RAG_RERANKING_ENGINE"], settings["RAG_EXTERNAL_RERANKER_API_KEY"]) == ("external", KEY)
    body = {"model": settings["RAG_RERANKING_MODEL"], "query": QUERY, "documents": TEXTS, "top_n": len(TEXTS)}
    answer = post(served, (settings["RAG_EXTERNAL_RERANKER_URL"], *bearer(body)))
    results = sorted(answer.content["results"], key=lambda each: each["index"])
    assert [each["relevance_score"] for each in results] == SCORES


def test_dify_gets_scores_between_0_and_1_for_its_threshold(served: Replica) -> None:
    settings = content_of("dify.json")
    body = {"model": settings["endpoint_model_name"], "query": QUERY, "documents": TEXTS, "top_n": 3}
    answer = post(served, (f"{settings['endpoint_url']}/rerank", *bearer(body)))
    assert {each["index"]: each["relevance_score"] for each in answer.content["results"]} == dict(enumerate(SCORES))
    assert all(0 <= each["relevance_score"] <= 1 for each in answer.content["results"])


def test_opensearchs_local_model_names_all_that_ml_commons_asks_of_one() -> None:
    model = content_of("opensearch/local-model.json")  # its file is tried in tests/stages/test_export.py
    wanted = {"name", "version", "model_format", "function_name", "model_content_hash_value", "model_config", "url"}
    assert model.keys() == wanted
    assert (model["model_format"], model["function_name"]) == ("ONNX", "TEXT_SIMILARITY")
    assert model["model_config"].keys() == {"model_type", "embedding_dimension", "framework_type", "all_config"}


def test_every_file_is_tried_here() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert [path.name for path in FILES.rglob("*.*") if path.name not in text] == []
