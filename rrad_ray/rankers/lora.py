"""Low-rank adapters (LoRA, Hu et al., 2021) by peft: put on a model, merged into a plain one, kept by themselves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rrad_ray.errors import InvalidInput

FOLDER = "adapter"  # in a checkpoint; peft.PeftModel.from_pretrained takes it


def check_lora(rank: int) -> None:
    """Raises `ValueError` for a rank above 0 where peft is not installed."""
    if rank:
        _peft(rank)


def _peft(rank: int) -> Any:
    try:
        import peft
    except ImportError as error:
        found = f"lora_rank={rank} needs peft, which is not installed here"
        raise InvalidInput(found, "pip install peft, or train all weights with lora_rank=0") from error
    return peft


def attach(model: Any, rank: int, head: str = "") -> None:
    """Puts adapters on every linear layer of a transformers model, in place; they alone are trained, and in full the
    model's own layer `head` where it has one. Raises `ValueError` as `check` does."""
    task = "SEQ_CLS" if head else "CAUSAL_LM"
    peft = _peft(rank)
    model.add_adapter(peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type=task))
    if head:
        model.get_submodule(head).requires_grad_(True)


def attached(model: Any) -> bool:
    """Whether a model carries adapters."""
    return bool(getattr(model, "peft_config", None))


def merged(model: Any, fine: Mapping[str, Tensor]) -> Any:
    """A plain copy of the model on the CPU, float32, with its adapters merged. `fine`: finer copies of its
    parameters, by name."""
    from peft.tuners.lora import LoraLayer

    whole = copy.deepcopy(model).float().cpu()
    whole.load_state_dict(dict(fine), strict=False)
    for name, layer in list(whole.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            whole.set_submodule(name, layer.get_base_layer())
    del whole.peft_config
    whole._hf_peft_config_loaded = False
    return whole


def keep(model: Any, fine: Mapping[str, Tensor], folder: Path) -> None:
    """Writes the adapters alone, a few MB, to `folder/adapter`."""
    model.save_pretrained(folder / FOLDER, state_dict=dict(fine))
