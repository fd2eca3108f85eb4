"""FSDP2: weights, gradients and optimizer state cut over the workers, for a model that one GPU does not hold."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(task: nn.Module, device: str, dtype: torch.dtype) -> None:
    """Cuts a task in float32 over all workers: layer by layer, so that one layer at a time is put together, in the
    `dtype` that it computes in; what is left (embeddings, heads) with the task itself.

    From now on all workers must call `forward` and `measure` alike: each call exchanges weights, layer by layer.
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


def gathered(value: Any) -> Any:
    """The same with the sharded tensors in it whole, on the first worker; elsewhere None stands for them. All workers
    must call it alike."""
    if isinstance(value, dict):
        return {key: gathered(item) for key, item in value.items()}
    if isinstance(value, list):
        return [gathered(item) for item in value]
    if isinstance(value, DTensor):
        whole = value.full_tensor()  # one at a time: all of them would not fit
        return whole.cpu() if dist.get_rank() == 0 else None
    return value


def local_shard(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, sharded where the other one is."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    # Every worker has read the same checkpoint: there is nothing to send.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
