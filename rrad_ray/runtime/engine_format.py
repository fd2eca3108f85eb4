"""The number format of vLLM's engines on CPUs: the one in which a model's products are the fastest where they run.

vLLM takes the format of the checkpoint, mostly bfloat16. A CPU without units for it multiplies float32 several times
as fast.
"""

from __future__ import annotations

import dataclasses

import ray

from rrad_ray.config import JudgeConfig
from rrad_ray.errors import at_place
from rrad_ray.progress import say
from rrad_ray.runtime import cluster


def engine_format(cfg: JudgeConfig, model: str) -> str:
    """Return the format of the engines; empty where vLLM takes its own: on GPUs, and where the config names one.

    Measured once, in less than 100 ms, by a process on a node that has what an engine asks for.
    """
    if "GPU" in cfg.resources or cfg.engine_kwargs.get("dtype", "auto") != "auto":
        return ""
    from rrad_ray.rankers import loading

    with at_place(model, "name a whole checkpoint"):
        config = loading.config_of(model)
    alone = sum(node["Alive"] for node in ray.nodes()) == 1
    if alone:
        return _measured(config)
    return ray.get(ray.remote(_measured).options(**cluster.resources(cfg.resources)).remote(config))


def with_format(cfg: JudgeConfig, name: str) -> JudgeConfig:
    """Return a config whose engines compute in a format; as it is without one."""
    if not name:
        return cfg
    say(f"engines compute in {name}, in which this model's products are the fastest here")
    return dataclasses.replace(cfg, engine_kwargs={**cfg.engine_kwargs, "dtype": name})


def _measured(config: object) -> str:
    from rrad_ray.rankers.precision import dtype_of

    return str(dtype_of("auto", "cpu", config)).removeprefix("torch.")
