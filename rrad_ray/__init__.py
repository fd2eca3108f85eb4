"""rrad-ray: distil an LLM's ranking ability into a re-ranker that a search team can afford to serve, on Ray.

A saved student scores documents in any Python process, without Ray:

    from rrad_ray import Ranker

    ranker = Ranker.load("runs/demo/encoder/model")
    scores = ranker.score("add up an array", ["numpy.sum(a, axis)", "os.remove(path)"])  # higher is better

A stage runs from a config, as the command `rrad` does it, and returns the URI of its output:

    from rrad_ray import run_stage
    from rrad_ray.config import TrainConfig

    run_stage("train", TrainConfig(input="runs/demo/labels", output="runs/mine/encoder", epochs=2))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rrad_ray.cli import run_stage
    from rrad_ray.rankers.ranker import Ranker

__version__ = "0.1.0"
__all__ = ["Ranker", "run_stage"]


def __getattr__(name: str) -> Any:
    """Import a name of the public API when it is asked for: `import rrad_ray` needs neither torch nor Ray."""
    if name == "Ranker":
        from rrad_ray.rankers.ranker import Ranker

        return Ranker
    if name == "run_stage":
        from rrad_ray.cli import run_stage

        return run_stage
    raise AttributeError(f"module 'rrad_ray' has no attribute '{name}'")
