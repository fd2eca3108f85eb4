"""Low-rank adapters (LoRA, Hu et al., 2021) by peft: attached to a model, merged into it, saved by themselves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rrad_ray.errors import InvalidInput
from rrad_ray.patches import peft_merge

FOLDER = "adapter"  # in a checkpoint; peft.PeftModel.from_pretrained reads it


def check_lora(rank: int) -> None:
    """Check that adapters of this rank can be made: raise `ValueError` for a rank above 0 without peft."""
    if rank:
        _peft(rank)


def _peft(rank: int) -> Any:
    """Return the module peft. Raises `ValueError` if it is not installed."""
    try:
        import peft
    except ImportError as error:
        problem = f"lora_rank={rank} needs peft, which is not installed here"
        raise InvalidInput(problem, "pip install peft, or train all weights with lora_rank=0") from error
    return peft


def attach(model: Any, rank: int, head: str = "") -> None:
    """Attach adapters to every linear layer of a transformers model, in place, and freeze the model's own weights.

    A model with a ranking layer names it by `head`: that layer is trained in full. Raises `ValueError` as
    `check_lora` does.
    """
    task = "SEQ_CLS" if head else "CAUSAL_LM"
    peft = _peft(rank)
    model.add_adapter(peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type=task))
    if head:
        model.get_submodule(head).requires_grad_(True)


def attached(model: Any) -> bool:
    """Return whether a model carries adapters."""
    return bool(getattr(model, "peft_config", None))


def merged(model: Any, float32_weights: Mapping[str, Tensor]) -> Any:
    """Return a plain copy of the model in float32 on the CPU, with its adapters merged.

    `float32_weights`: float32 copies of parameters that the model has in a shorter format, by name.
    """
    from peft.tuners.lora import LoraLayer

    plain = copy.deepcopy(model).float().cpu()
    plain.load_state_dict(dict(float32_weights), strict=False)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            plain.set_submodule(name, layer.get_base_layer())
    peft_merge.forget_adapters(plain)
    return plain


def keep(model: Any, float32_weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write the adapters alone, a few MB, to `folder/adapter`."""
    model.save_pretrained(folder / FOLDER, state_dict=dict(float32_weights))
