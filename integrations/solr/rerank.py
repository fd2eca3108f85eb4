"""Search Solr, and re-rank its first hits by an endpoint of rrad-ray. It needs httpx; copy it into your application:

    endpoint = httpx.Client(base_url="http://rrad.example:8000", headers={"Authorization": "Bearer KEY"}, timeout=2)
    answer = reranked(solr_search("http://localhost:8983/solr/INDEX"), endpoint, "open a file", start=10)

or try it as a command, with a key of the endpoint in RRAD_KEY:

    python integrations/solr/rerank.py http://localhost:8983/solr/INDEX http://rrad.example:8000 "open a file"
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import httpx

Search = Callable[..., dict[str, Any]]
"""Takes a query and Solr's parameters, gives Solr's JSON: `pysolr.Solr(URL, results_cls=dict).search` is one."""


def solr_search(url: str) -> Search:
    """Return a search of the core or collection at `url`. It raises `httpx.HTTPError` where Solr gives no answer."""

    def search(q: str, **params: Any) -> dict[str, Any]:
        answer = httpx.post(f"{url}/select", data={"q": q, "wt": "json", **params})  # no limit to the query's length
        return answer.raise_for_status().json()

    return search


def reranked(
    search: Search,
    endpoint: httpx.Client,
    query: str,
    *,
    start: int = 0,
    rows: int = 10,
    window: int = 50,
    fl: str = "id",
    field: str = "text",
    source: str = "bm25",
    **params: Any,
) -> dict[str, Any]:
    """Return Solr's answer with a page of hits: the first `window` in the endpoint's order, all others in Solr's.

    Every page of a query asks for the whole window again, so that no hit is on two pages or on none. `field` holds a
    hit's text; Solr's score goes along as that of the first-stage `source`, which is what a fused winner calls it.
    `params` are Solr's own. A key more, `rerank`, says whose order the page has: the endpoint's, or Solr's
    and why. Solr's errors are raised; the endpoint's are not, since a page in Solr's order is better than none.
    """
    first = 0 if start < window else start
    count = max(start + rows, window if first < window else 0) - first
    answer = search(query, start=first, rows=count, fl=f"id,{fl},{field},score", **params)
    hits = answer["response"]["docs"]
    judged = hits[: max(window - first, 0)]
    try:
        order, rerank = asked(endpoint, query, judged, field, source)
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        order, rerank = range(len(judged)), by_solr(f"{type(error).__name__}: {error}")
    hits = [judged[index] for index in order] + hits[len(judged) :]
    page = {"start": start, "docs": hits[start - first : start - first + rows]}
    return answer | {"response": answer["response"] | page, "rerank": rerank}


def asked(
    endpoint: httpx.Client, query: str, hits: Sequence[dict[str, Any]], field: str, source: str
) -> tuple[Sequence[int], dict[str, Any]]:
    """Return the endpoint's order of hits, as their indices, and whose order it is; without hits it is not asked.

    Raises `httpx.HTTPError` where the endpoint is away or refuses; `ValueError`, `KeyError` or `TypeError` for an
    answer that is none.
    """
    if not hits:
        return [], by_solr("no hit of this page is in the window")
    documents = [
        {"text": text_of(hit.get(field)), "id": str(hit["id"]), "first_stage": {source: hit["score"]}} for hit in hits
    ]
    response = endpoint.post("/v2/rerank", json={"query": query, "documents": documents})
    results = response.raise_for_status().json()["results"]
    order = [result["index"] for result in results]
    if sorted(order) != list(range(len(hits))):
        raise ValueError(f"{len(order)} results for {len(hits)} documents")
    return order, {"by": "endpoint", "first_stage": response.headers.get("X-First-Stage", "not needed")}


def by_solr(reason: str) -> dict[str, Any]:
    """Return what an answer says whose hits are in Solr's order."""
    return {"by": "solr", "because": reason}


def text_of(value: Any) -> str:
    """Return a field's text: empty where a hit has none, joined where it is multi-valued."""
    return " ".join(map(str, value)) if isinstance(value, list) else str("" if value is None else value)


def main() -> None:
    """Print a page of re-ranked hits as JSON."""
    parser = argparse.ArgumentParser(description="Search Solr and re-rank its first hits.")
    for name in ("solr", "endpoint", "query"):
        parser.add_argument(name)
    for name, number in (("start", 0), ("rows", 10), ("window", 50)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--field", default="text")
    args = vars(parser.parse_args())
    headers = {"Authorization": f"Bearer {os.environ['RRAD_KEY']}"} if "RRAD_KEY" in os.environ else {}
    with httpx.Client(base_url=args.pop("endpoint"), headers=headers, timeout=10) as endpoint:
        answer = reranked(solr_search(args.pop("solr")), endpoint, args.pop("query"), **args)
    print(json.dumps(answer, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
