"""Tiny random checkpoints of many architectures, made offline in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # padding has id 1, as RoBERTa has it
WORDS = [*SPECIAL, *(f"w{number}" for number in range(60))]


def tokenizer(limit: Any = None) -> PreTrainedTokenizerFast:
    """A tokenizer of the words w0 to w59, which writes `<s> query </s> document </s>`; `limit`: its own, if any."""
    backend = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}
    more = {} if limit is None else {"model_max_length": limit}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **names, **more)


def save(folder: Path, name: str, head: str = "ForSequenceClassification", limit: Any = None, **options: Any) -> str:
    """Save a random checkpoint of an architecture such as `Bert`, with one label, and its tokenizer."""
    torch.manual_seed(0)
    defaults: dict[str, Any] = SIZES | {"pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0, "num_labels": 1}
    config = getattr(transformers, f"{name}Config")(**({"vocab_size": len(WORDS)} | defaults | options))
    getattr(transformers, f"{name}{head}")(config).save_pretrained(folder)
    tokenizer(limit).save_pretrained(folder)
    return str(folder)
