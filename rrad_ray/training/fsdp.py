"""FSDP2: weights, gradients and optimizer state sharded over the workers, for models too large for one GPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(task: nn.Module, device: str, dtype: torch.dtype) -> None:
    """Shard a float32 task over all workers, in place.

    Each layer is a unit of its own, so only one layer at a time is gathered, in the `dtype` that it computes in. The
    remaining weights (embeddings, heads) form the task's own unit. From now on every worker must call `forward` and
    `measure` equally often, because each call exchanges weights layer by layer.
    """
    mesh = init_device_mesh(torch.device(device).type, (dist.get_world_size(),))
    options: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32),
    }
    stacks = [module for module in task.modules() if isinstance(module, nn.ModuleList)]
    for layer in max(stacks, key=len, default=nn.ModuleList()):
        fully_shard(layer, **options)
    fully_shard(task, **options)
    register_fsdp_forward_method(task, "measure")


def gather(value: Any) -> Any:
    """Return `value` with every sharded tensor in its dicts and lists gathered: whole on rank 0, None elsewhere.

    Every worker must call it, with the same structure.
    """
    if isinstance(value, dict):
        return {key: gather(item) for key, item in value.items()}
    if isinstance(value, list):
        return [gather(item) for item in value]
    if isinstance(value, DTensor):
        whole = value.full_tensor()  # one tensor at a time: all of them would not fit on a GPU
        return whole.cpu() if dist.get_rank() == 0 else None
    return value


def local_shard(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor sharded as `like` is; unchanged where `like` is whole or has another shape."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    # Every worker has read the same checkpoint, so nothing has to be sent.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
