"""A planned prompt, and the calls that it stands for: one, or one about each chunk of a long document.

The chunks of a document travel as one prompt and are asked about in one row of the engine, so its slot, the journal
and what a killed run goes on from know of documents alone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypedDict, cast

from rrad_ray.rankers.chunker import Chunked


class Prompt(TypedDict, total=False):
    """One call of an engine, as planned; `start`, `truncated`, `too_long`, `documents` and `calls` are always
    there.

    An engine reads one of `token_ids` (vLLM), `messages` (JSON of a chat, OpenAI), `sliding` (JSON of a query and its
    texts, whose windows are planned as answers come) and `answer` (`echo`, `simulated`).
    """

    start: int  # the first token that `likelihood` scores
    truncated: int  # documents cut below `doc_tokens`
    too_long: str  # why the prompt cannot be asked; empty: it can
    documents: int  # that the prompt shows or, of a prompt about one document, those of its query
    calls: int  # the prompts of its query
    token_ids: list[int]
    sampling_params: dict[str, Any]
    pooling_params: dict[str, Any]
    messages: str
    sliding: str
    answer: dict[str, Any]
    chunk: list[int]  # the characters [start, end) of its document that it is about, where documents are in chunks
    chunks: str  # JSON of the prompts about a document's chunks, of which this is the first; empty where it has one


def joined_chunks(planned: Sequence[Prompt], split: Chunked) -> list[Prompt]:
    """Return one prompt for each document, from those about all chunks of a query's documents."""
    prompts_of: dict[int, list[Prompt]] = {}
    for prompt, owner, span in zip(planned, split.owners, split.spans, strict=True):
        prompts_of.setdefault(owner, []).append({**prompt, "chunk": span})
    return [
        {
            **each[0],
            "truncated": max(prompt["truncated"] for prompt in each),
            "chunks": json.dumps(each) if len(each) > 1 and not each[0]["too_long"] else "",
        }
        for each in prompts_of.values()
    ]


def calls_of(prompt: Prompt) -> list[Prompt]:
    """Return the prompts that are asked for a prompt: itself, or one for each chunk."""
    return cast(list[Prompt], json.loads(prompt["chunks"])) if prompt.get("chunks") else [prompt]


async def best_answer(
    row: Mapping[str, Any],
    ask: Callable[[Prompt], Awaitable[dict[str, Any]]],
    score: Callable[[Mapping[str, Any]], float],
    error: str,
    tokens: Sequence[str],
) -> dict[str, Any]:
    """Return the answer about the best chunk of a row's document, with the tokens of all; or the first that failed.

    `score`: of an answer. `error`, `tokens`: what an answer's error and its numbers of tokens are called.
    """
    calls = calls_of(cast(Prompt, row))
    answers = await asyncio.gather(*map(ask, calls))
    answers = [{"start": call["start"], "chunk": call["chunk"]} | each for call, each in zip(calls, answers)]
    used = {name: sum(each.get(name, 0) for each in answers) for name in tokens}
    failed = [each for each in answers if each.get(error)]
    best = failed[0] if failed else max(answers, key=score)
    return best | used
