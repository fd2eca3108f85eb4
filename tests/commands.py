"""How tests run `rrad` as a user does: in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RRAD = [sys.executable, "-c", "from rrad_ray.cli import main; main()"]
# How long to wait for what must come in the end. Far more than it takes: a test is about what comes, not when, and on
# a shared machine with two test processes everything may take five times as long.
PATIENCE_S = 1500
# Arguments of a `judge` with configs/judge-cpu.yaml whose engine starts fast and is small.
SMALL_ENGINE = [
    "engine_kwargs.max_model_len=512",
    "engine_kwargs.max_num_batched_tokens=2048",
    "engine_env.VLLM_CPU_KVCACHE_SPACE=1",
]
