"""One of sentence-transformers' backends in a process of its own, in an environment where optimum is installed, which
wants an older transformers than ours. Knows nothing of this project."""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main(folder: str, backend: str, file: str, threads: str, rounds: str) -> None:
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(int(threads))
    options: dict[str, Any] = {}
    if backend == "onnx":
        options = {"provider": "CPUExecutionProvider"}
    if backend == "openvino":
        options = {"ov_config": {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": int(threads)}}
    model = CrossEncoder(folder, backend=backend, device="cpu", model_kwargs=options)
    with open(file, encoding="utf-8") as lines:
        pairs = json.load(lines)
    model.predict(pairs[:64], show_progress_bar=False)
    seconds, scores = [], []
    for _ in range(int(rounds)):
        began = time.perf_counter()
        scores = model.predict(pairs, show_progress_bar=False).tolist()
        seconds.append(time.perf_counter() - began)
    print("figures:" + json.dumps({"seconds": seconds, "scores": scores}))


if __name__ == "__main__":
    main(*sys.argv[1:])
