"""AdamW on float32 master weights, with averaging over time (SWA) and over workers (local SGD)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rrad_ray.config import FitConfig
from rrad_ray.patches import torch_cpu
from rrad_ray.training import fsdp
from rrad_ray.training.task import in_hf_head


class MasterAdamW:
    """AdamW on a float32 master copy of the trainable weights; the model itself computes in its own dtype.

    On CPUs with AMX, bfloat16 weights train about 1.6 times as fast as float32 weights under autocast. Without the
    master copy, updates smaller than 2^-8 of a weight would be lost. Masters of sharded weights are sharded alike.

    Attributes: `weights`, the model's trainable parameters; `masters`, their float32 copies in the same order;
    `mean`, the running mean of the masters over `mean_count` updates, empty before the first one.
    """

    def __init__(self, model: nn.Module, cfg: FitConfig, is_head: Callable[[str], bool] = in_hf_head) -> None:
        """Take the trainable parameters of `model`; those of which `is_head` is true by name train at `head_lr`."""
        head, matrices, vectors = _groups(model, is_head)
        self.weights = [*head, *matrices, *vectors]
        # Float32 weights serve as their own masters, unless the model has to show their mean instead.
        self.in_place = cfg.average_from >= 1 and all(weight.dtype == torch.float32 for weight in self.weights)
        copies = (weight.detach() for weight in self.weights)
        self.masters = [copy if self.in_place else copy.float().clone() for copy in copies]
        cuts = (len(head), len(head) + len(matrices))
        parts = (self.masters[: cuts[0]], self.masters[cuts[0] : cuts[1]], self.masters[cuts[1] :])
        rates = ((cfg.peak_head_lr, 0.0), (cfg.lr, cfg.weight_decay), (cfg.lr, 0.0))
        groups = [
            {"params": part, "lr": lr, "peak": lr, "weight_decay": decay}
            for part, (lr, decay) in zip(parts, rates, strict=True)
            if part
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
        self.clip = cfg.clip
        self.mean: list[Tensor] = []
        self.mean_count = 0

    def step(self, share_of_peak: float) -> float:
        """Update once at a share of each group's peak rate; return the gradient's norm before clipping.

        A gradient that is not finite is dropped: the weights stay as they are.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share_of_peak
        for weight, master in zip(self.weights, self.masters, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        total = nn.utils.clip_grad_norm_(self.masters, self.clip)
        norm = float(total.full_tensor() if isinstance(total, DTensor) else total)
        if math.isfinite(norm):
            self.optimizer.step()
        self.copy_to_model(self.masters)
        return norm

    def average_workers(self) -> None:
        """Set every worker's weights to the mean over workers; each worker keeps its own optimizer moments."""
        flat = torch.cat([master.view(-1) for master in self.masters])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        with torch.no_grad():
            parts = flat.split([master.numel() for master in self.masters])
            for master, part in zip(self.masters, parts, strict=True):
                master.copy_(part.view_as(master))
        self.copy_to_model(self.masters)

    def update_average(self) -> None:
        """Add the current masters to their mean over time (stochastic weight averaging, Izmailov et al., 2018)."""
        self.mean_count += 1
        if not self.mean:
            self.mean = [master.clone() for master in self.masters]
        else:
            torch_cpu.lerp_all(self.mean, self.masters, 1 / self.mean_count)

    @property
    def averaged(self) -> list[Tensor]:
        """The weights that are measured and saved: the mean over time, or the masters where there is none."""
        return self.mean or self.masters

    def copy_to_model(self, values: Sequence[Tensor]) -> None:
        """Copy these values, one for each of `weights`, into the model, in the model's own dtype."""
        if self.in_place:
            return
        with torch.no_grad():
            for weight, value in zip(self.weights, values, strict=True):
                weight.copy_(value)

    def float32_state(self, model: nn.Module) -> dict[str, Tensor]:
        """Return all parameters of the model by name in float32, trained ones at full precision from `averaged`.

        Sharded parameters are gathered as `fsdp.gather` does: whole on rank 0, None elsewhere.
        """
        trained = {id(weight): value for weight, value in zip(self.weights, self.averaged, strict=True)}
        state = {name: trained.get(id(weight), weight.detach().float()) for name, weight in model.named_parameters()}
        return fsdp.gather(state)

    def load(self, optimizer: Mapping[str, Any], masters: Sequence[Tensor], mean: Sequence[Tensor]) -> None:
        """Restore masters, their mean and the optimizer's moments from whole tensors, as a checkpoint holds them."""
        state = {
            index: {name: fsdp.local_shard(value, self.masters[index]) for name, value in moments.items()}
            for index, moments in optimizer["state"].items()
        }
        self.optimizer.load_state_dict({**optimizer, "state": state})
        with torch.no_grad():
            for master, saved in zip(self.masters, masters, strict=True):
                master.copy_(fsdp.local_shard(saved, master))
        self.copy_to_model(self.masters)
        self.mean = [fsdp.local_shard(saved, master) for saved, master in zip(mean, self.masters)]


def _groups(
    model: nn.Module, is_head: Callable[[str], bool]
) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Return the trainable weights in three groups: heads, matrices (decayed), biases and norms (not decayed)."""
    head: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        group = head if is_head(name) else matrices if weight.ndim > 1 else vectors
        group.append(weight)
    return head, matrices, vectors


def share_of_peak(step: int, progress: float, warmup: int) -> float:
    """Return the learning rate as a share of its peak.

    It rises linearly over `warmup` steps, and falls linearly to 0 while `progress` goes from 0 to 1.
    """
    return min(1.0, (step + 1) / max(1, warmup)) * max(0.0, 1.0 - progress)
