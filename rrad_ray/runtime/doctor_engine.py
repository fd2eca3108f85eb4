"""A vLLM engine that starts with a model and writes one token; `machine` runs it in a process of its own."""

from __future__ import annotations

import sys

from rrad_ray.tables import checkpoints


def start_and_write(model: str) -> None:
    """Start an engine, have it write a token, and print what it has written."""
    import vllm

    engine = vllm.LLM(checkpoints.resolve(model), enforce_eager=True, max_model_len=256, max_num_seqs=1)
    [answer] = engine.generate(["The capital of France is"], vllm.SamplingParams(max_tokens=1), use_tqdm=False)
    print(repr(answer.outputs[0].text))


if __name__ == "__main__":
    start_and_write(sys.argv[1])
