"""Hugging Face checkpoint folders that rankers are saved to, and their tokenizers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import normalizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rrad_ray import prompts
from rrad_ray.errors import InvalidInput
from rrad_ray.rankers import lora


def end_of(tokenizer: Any) -> int:
    """The token that ends a target. Raises `ValueError` for a tokenizer without one: answers would never end."""
    if tokenizer.eos_token_id is None:
        found = f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no eos token"
        raise InvalidInput(found, "set eos_token in its tokenizer_config.json, or choose another model")
    return int(tokenizer.eos_token_id)


PAD = "<|pad|>"


def write_checkpoint(
    folder: str | Path, model: Any, tokenizer: Any, fine: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """A plain Hugging Face checkpoint folder; adapters are merged. `fine`: finer copies of the model's parameters, by
    name."""
    if lora.attached(model):
        model, fine = lora.merged(model, fine), {}
    every = dict(model.named_parameters(remove_duplicate=False))
    tied = every.keys() - dict(model.named_parameters()).keys()  # written once; loading ties them again
    weights = {
        name: fine.get(name, tensor).detach().to(dtype).cpu()
        for name, tensor in model.state_dict().items()
        if name not in tied
    }
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)
    config = Path(folder) / "config.json"
    content = json.loads(config.read_text()) | {"dtype": str(dtype).removeprefix("torch.")}
    config.write_text(json.dumps(content, indent=2) + "\n")


def check_tokenizer(tokenizer: Any, kind: str) -> None:
    """Raises `ValueError` for a tokenizer with which a student cannot tell query and document apart, or a decoder
    where the pair ends."""
    if kind == "decoder":
        end_of(tokenizer)
    elif not tokenizer.num_special_tokens_to_add(pair=True):
        found = f"the tokenizer of {tokenizer.name_or_path or 'this model'} puts nothing between query and document"
        raise InvalidInput(f"{found} ([SEP] or the like)", "choose an encoder whose tokenizer does, or kind=decoder")


def _add_pad(model: Any, tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"pad_token": PAD})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id


def _with_pair_template(tokenizer: Any) -> Any:
    """A tokenizer that writes `Query: ...\\nDocument: ...<eos>` for `(query, document)`, by its saved files alone.

    A plain one: a class such as Qwen2Tokenizer would set its own normalizer when loaded, and sentence-transformers
    would wrap each pair in a chat template.
    """
    pieces = dict(zip(("[QUERY]", "[DOCUMENT]"), prompts.PAIR))
    special: list[Any] = [
        {"id": name, "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)}
        for name, text in pieces.items()
        for ids in [tokenizer(text, add_special_tokens=False)["input_ids"]]
    ]
    end, backend = tokenizer.eos_token, tokenizer.backend_tokenizer
    special.append((end, tokenizer.eos_token_id))
    backend.post_processor = TemplateProcessing(
        single=f"$A {end}", pair=f"[QUERY] $A [DOCUMENT]:1 $B:1 {end}:1", special_tokens=special
    )
    space = normalizers.Prepend(" ")  # `Query: how`, not `Query:how`
    backend.normalizer = normalizers.Sequence([backend.normalizer, space]) if backend.normalizer else space
    names = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="right", model_input_names=inputs, **names)
