"""Checkpoints of rankers as plain Hugging Face folders, and the tokenizers in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import normalizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from rrad_ray import prompts
from rrad_ray.errors import InvalidInput
from rrad_ray.rankers import loading, lora


def end_of(tokenizer: Any) -> int:
    """Return the id of the token that ends a target.

    Raises `ValueError` for a tokenizer without an eos token, with which answers would never end.
    """
    if tokenizer.eos_token_id is None:
        problem = f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no eos token"
        raise InvalidInput(problem, "set eos_token in its tokenizer_config.json, or choose another model")
    return int(tokenizer.eos_token_id)


PAD = "<|pad|>"  # the pad token that a decoder gets, and an encoder that has none


def write_checkpoint(
    folder: str | Path, model: Any, tokenizer: Any, float32_weights: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """Write a plain Hugging Face checkpoint folder with weights of `dtype`; adapters are merged.

    `float32_weights`: float32 copies of parameters that the model has in a shorter format, by name. They are written
    in place of the model's own.
    """
    if lora.attached(model):
        model, float32_weights = lora.merged(model, float32_weights), {}
    every = dict(model.named_parameters(remove_duplicate=False))
    tied = every.keys() - dict(model.named_parameters()).keys()  # written once; loading ties them again
    weights = {
        name: float32_weights.get(name, tensor).detach().to(dtype).cpu()
        for name, tensor in model.state_dict().items()
        if name not in tied
    }
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)
    config = Path(folder) / "config.json"
    content = json.loads(config.read_text()) | {"dtype": str(dtype).removeprefix("torch.")}
    config.write_text(json.dumps(content, indent=2) + "\n")


def scale_head(model: Any, slope: float, offset: float) -> None:
    """Make a ranker's scores `slope * score + offset`, in place, by its head's weight and bias.

    Raises `ValueError` for a head without a bias, as transformers' decoders have it.
    """
    heads = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features == 1]
    if not heads or heads[-1].bias is None:
        problem = f"the head of a {model.config.model_type} has no bias, so it takes no offset"
        raise InvalidInput(problem, "set calibrate=false, or take an encoder student")
    with torch.no_grad():
        heads[-1].weight.mul_(slope)
        heads[-1].bias.mul_(slope).add_(offset)


def check_tokenizer(tokenizer: Any, kind: str) -> None:
    """Check that a student of this kind, `encoder` or `decoder`, can be trained with the tokenizer.

    Raises `ValueError` if an encoder could not tell query and document apart, or a decoder where the pair ends.
    """
    if kind == "decoder":
        end_of(tokenizer)
    else:
        loading.check_pairs(tokenizer, "choose an encoder whose tokenizer does, or kind=decoder")


def add_pad_token(model: Any, tokenizer: Any) -> None:
    """Give tokenizer and model the pad token `PAD`, in place; the embeddings get a row for it."""
    tokenizer.add_special_tokens({"pad_token": PAD})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id


def with_pair_template(tokenizer: Any) -> Any:
    """Return a tokenizer that writes `Query: ...\\nDocument: ...<eos>` for `(query, document)`.

    Its saved files alone say so; no code of ours is needed. It is a `PreTrainedTokenizerFast`: a class such as
    Qwen2Tokenizer would set its own normalizer when loaded, and sentence-transformers would wrap each pair in a chat
    template.
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
    space = normalizers.Prepend(" ")  # for `Query: how`; without it the text would be `Query:how`
    backend.normalizer = normalizers.Sequence([backend.normalizer, space]) if backend.normalizer else space
    names = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="right", model_input_names=inputs, **names)
