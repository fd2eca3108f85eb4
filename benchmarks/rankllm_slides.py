"""RankLLM's own sliding window (its windows, prompts and parser, from PyPI) over vLLM's CPU build: tokens and calls.

A process of its own for `calls_saved`: reads the work as JSON from the file it is given, writes figures to stdout.
RankLLM starts its engine with settings for GPUs; here it gets one with the same settings as `judge`.
"""

from __future__ import annotations

import json
import sys
import types
from typing import Any

PREFIX = "FIGURES "


class Absent(types.ModuleType):
    """RankLLM's LiT5, which its package imports and which needs an older transformers; nothing here uses it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Handler:
    """What RankLLM's `VllmHandler` is to its rankers."""

    def __init__(self, engine: dict[str, Any]) -> None:
        import vllm

        self.llm = vllm.LLM(**engine)

    def get_tokenizer(self) -> Any:
        return self.llm.get_tokenizer()

    def generate_output(self, prompts: list[str], **sampling: Any) -> Any:
        from vllm import SamplingParams

        return self.llm.generate(prompts, SamplingParams(**sampling), use_tqdm=False)


def main(place: str) -> None:
    sys.modules |= {f"rank_llm.rerank.listwise.lit5.{name}": Absent(name) for name in ("model", "modeling_t5")}
    from rank_llm.data import Candidate, Query, Request
    from rank_llm.rerank.listwise import rank_listwise_os_llm as peer

    with open(place, encoding="utf-8") as file:
        work = json.load(file)
    peer.VllmHandler = lambda **_: Handler(work["engine"])
    ranker = peer.RankListwiseOSLLM(
        model=work["engine"]["model"],
        context_size=work["engine"]["max_model_len"],
        window_size=work["window"],
        stride=work["step"],
        device="cpu",
    )
    requests = [
        Request(
            query=Query(text=row["query"], qid=row["query_id"]),
            candidates=[
                Candidate(docid=doc_id, score=-float(place), doc={"contents": text})
                for place, (doc_id, text) in enumerate(zip(row["doc_ids"], row["texts"], strict=True))
            ],
        )
        for row in work["rows"]
    ]
    results = ranker.rerank_batch(requests, rank_end=work["candidates"], populate_invocations_history=True)
    calls = [call for result in results for call in result.invocations_history]
    read, written = (
        sum(getattr(call, name) for call in calls) for name in ("input_token_count", "output_token_count")
    )
    print(PREFIX + json.dumps({"queries": len(results), "calls": len(calls), "read": read, "written": written}))


if __name__ == "__main__":
    main(sys.argv[1])
