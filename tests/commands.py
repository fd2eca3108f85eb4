"""How tests run `rrad` as a user does: in a process of its own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RRAD = [sys.executable, "-c", "from rrad_ray.cli import main; main()"]
# How long to wait for what must come in the end. Far more than it takes: a test is about what comes, not when, and on
# a shared machine with two test processes everything may take five times as long.
PATIENCE_S = 1500
# Each line of these processes of Ray: on a machine that lacks CPU time they ask each other too early or wait too
# briefly, print a traceback, and ask again.
OF_RAY = re.compile(r"(\x1b\[\d+m)?\((HAProxyManager|TrainController) pid=")
# Arguments of a `judge` with configs/judge-cpu.yaml whose engine starts fast and is small.
SMALL_ENGINE = [
    "engine_kwargs.max_model_len=512",
    "engine_kwargs.max_num_batched_tokens=2048",
    "engine_env.VLLM_CPU_KVCACHE_SPACE=1",
]


def lines_of_ours(log: Path) -> list[str]:
    """Return what a command printed, without the lines of Ray's own processes about themselves."""
    return [line for line in log.read_text().splitlines() if not OF_RAY.match(line)]
