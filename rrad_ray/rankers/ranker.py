"""Rankers: torch modules that score documents for a query. Offline evaluation and the endpoint call the same `score`.

A student is a plain Hugging Face sequence-classification checkpoint with one output. How query and document are
joined is part of its tokenizer (`tokenizer(query, document)`), for the decoder too, so that other software
(transformers, sentence-transformers' `CrossEncoder`, vLLM `/score`, TEI) scores it the same without our code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BatchEncoding

from rrad_ray.patches import transformers_cls_only
from rrad_ray.rankers import backends
from rrad_ray.rankers.checkpoint import PAD, _add_pad, _with_pair_template, check_tokenizer, write_checkpoint
from rrad_ray.rankers.precision import dtype_of

Encoded = list[dict[str, list[int]]]


# Passes are as long as a multiple of it: oneDNN makes and keeps kernels for each shape that it meets, 650 MiB of them
# within 25 steps of the demo's student, and GPUs multiply such shapes faster.
PAD_MULTIPLE = 16


def score_tokens(device: str) -> int:
    """Tokens of a forward pass when scoring, padding included: enough to keep the device busy."""
    return 4096 if device == "cpu" else 65536


def train_tokens(device: str) -> int:
    """Tokens of a forward pass within a training step, which keeps what the backward pass needs."""
    return 2048 if device == "cpu" else 16384


class Ranker(nn.Module):
    """A student: one score for a query and a document.

    Encoder: RRA-BERT at inference, a cross-encoder with a score from `[CLS]`. Decoder: the ranking layer, a linear
    score from the hidden state of the last token.
    """

    def __init__(self, model: Any, tokenizer: Any, max_length: int) -> None:
        super().__init__()
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length
        self.backend: backends.Scorer | None = None  # what scores in the model's place, once it is loaded to score
        transformers_cls_only.compute_cls_only(model)

    # ---- making and keeping ----

    @classmethod
    def load(cls, folder: str, *, device: str = "cpu", dtype: str = "auto", backend: str = "torch") -> Ranker:
        """A saved student, to score with. `dtype`: `auto`, `bfloat16`, `float32`, or `int8` with backend `onnx`; its
        `auto` is float32.

        Raises `ValueError` if the backend's library is not installed, or does not serve or compile such a model.
        """
        tokenizer = AutoTokenizer.from_pretrained(folder)
        own = dtype_of(dtype, device) if backend in ("torch", "compile") else torch.float32
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=own).to(device)
        ranker = cls(model, tokenizer, int(tokenizer.model_max_length)).eval()
        if dtype == "auto":
            dtype = "float32" if backend == "onnx" else str(dtype_of(dtype, device)).removeprefix("torch.")
        ranker.backend = backends.make(ranker, backend, dtype)
        return ranker

    @classmethod
    def encoder(cls, source: str, *, max_length: int, layers: int = 0) -> Ranker:
        """A fresh encoder student on a pretrained encoder; a head of its own is drawn at random.

        Raises `ValueError` as `check_tokenizer`. Without a pad token it gets the one that its model names, or a new
        one: batches need it, and attention hides it.
        """
        tokenizer = AutoTokenizer.from_pretrained(source)
        check_tokenizer(tokenizer, "encoder")
        options = {"num_hidden_layers": layers} if layers else {}
        model = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=1, dtype=torch.float32, **options
        )
        if tokenizer.pad_token is None and model.config.pad_token_id is not None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.config.pad_token_id)
        elif tokenizer.pad_token is None:
            _add_pad(model, tokenizer)
        return cls._prepare(model, tokenizer, max_length)

    @classmethod
    def decoder(cls, source: str, *, max_length: int, layers: int = 0) -> Ranker:
        """A fresh decoder student on the first layers of a causal LM, with a ranking layer on the last token.

        DisRanker appends the end-of-sequence token and scores its state; RRA-GPT reads the last prompt token. Here
        the last prompt token *is* an end-of-sequence token. It must not double as padding, or libraries differ
        about which token is the last one: the checkpoint gets a pad token of its own. A decoder student, as the
        source, has all this already. Raises `ValueError` for a tokenizer without an end-of-sequence token.
        """
        tokenizer = AutoTokenizer.from_pretrained(source)
        check_tokenizer(tokenizer, "decoder")
        options = {"num_hidden_layers": layers} if layers else {}
        model = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=1, dtype=torch.float32, **options
        )
        if tokenizer.pad_token == PAD:
            return cls._prepare(model, tokenizer, max_length)
        _add_pad(model, tokenizer)
        return cls._prepare(model, _with_pair_template(tokenizer), max_length)

    @classmethod
    def _prepare(cls, model: Any, tokenizer: Any, max_length: int) -> Ranker:
        tokenizer.model_max_length = max_length
        # sentence-transformers puts a sigmoid on a single output unless the checkpoint says otherwise.
        model.config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
        return cls(model, tokenizer, max_length)

    def save(self, folder: str | Path, exact: Mapping[str, Tensor] | None = None) -> None:
        """A plain Hugging Face checkpoint folder, float32. `exact`: finer copies of this module's parameters."""
        fine = {name.removeprefix("model."): tensor for name, tensor in (exact or {}).items()}
        write_checkpoint(folder, self.model, self.tokenizer, fine, torch.float32)

    @property
    def parameters_count(self) -> int:
        return sum(weight.numel() for weight in self.model.parameters())

    # ---- scoring ----

    def tokenize(self, queries: Sequence[str], texts: Sequence[str]) -> BatchEncoding:
        """Pairs as the tokenizer encodes them, cut to `max_length` (the longer of the two first)."""
        return self.tokenizer(list(queries), list(texts), truncation=True, max_length=self.max_length)

    def encode(self, queries: Sequence[str], texts: Sequence[str]) -> Encoded:
        """What the model takes of each pair: token ids and their like."""
        return one_by_one(self.tokenize(queries, texts))

    def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
        """Each text up to the end of its token number `tokens`."""
        found = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            truncation=True,
            max_length=tokens,
            return_offsets_mapping=True,
        )
        ends = [offsets[-1][1] if offsets else 0 for offsets in found["offset_mapping"]]
        return [text[:end] for text, end in zip(texts, ends, strict=True)]

    def cuts(self, pairs: Encoded, tokens: int) -> Iterator[list[int]]:
        """The places of encoded pairs, in passes of at most `tokens` padded tokens of like length."""
        by_length = sorted(range(len(pairs)), key=lambda index: len(pairs[index]["input_ids"]))
        done = 0
        while done < len(by_length):
            size = 1
            while done + size < len(by_length):
                if (size + 1) * self._length(pairs[by_length[done + size]]) > tokens:
                    break
                size += 1
            yield by_length[done : done + size]
            done += size

    def passes(self, pairs: Encoded, tokens: int) -> Iterator[tuple[list[int], BatchEncoding]]:
        """Encoded pairs for the model, in passes as `cuts` makes them, each with the places of its pairs."""
        for places in self.cuts(pairs, tokens):
            yield places, self.padded([pairs[place] for place in places])

    def padded(self, pairs: Encoded) -> BatchEncoding:
        """One pass: encoded pairs as tensors (P, L) where the model is."""
        length = max(map(self._length, pairs))
        found = self.tokenizer.pad(list(pairs), padding="max_length", max_length=length, return_tensors="pt")
        return found.to(self.model.device)

    def _length(self, pair: Mapping[str, Sequence[int]]) -> int:
        """Of a pass whose longest pair this is."""
        length = len(pair["input_ids"])
        return max(length, min(self.max_length, length + -length % PAD_MULTIPLE))

    def logits(self, pairs: Encoded, tokens: int) -> Tensor:
        """Scores (P,) of encoded pairs in float32, in passes of at most `tokens` padded tokens; by the backend where
        no gradient is asked for."""
        if self.backend is not None and not torch.is_grad_enabled():
            return self.backend(pairs, tokens)
        return self.in_passes(pairs, tokens, lambda chunk: self.model(**chunk).logits)

    def in_passes(self, pairs: Encoded, tokens: int, run: Callable[[BatchEncoding], Tensor]) -> Tensor:
        """Scores (P,) in float32 by `run`, which gives those of one pass (P, 1)."""
        return in_order([(places, run(chunk)[:, 0].float()) for places, chunk in self.passes(pairs, tokens)])

    def forward(self, pairs: Encoded, mask_BN: Tensor, tokens: int) -> Tensor:
        """scores_BN (B queries x N slots) of the pairs that fill the true slots of `mask_BN`, row by row."""
        return spread(self.logits(pairs, tokens), mask_BN)

    @torch.inference_mode()
    def score_pairs(self, queries: Sequence[str], texts: Sequence[str]) -> list[float]:
        """Scores of (query, text) pairs, in input order; pairs of several queries may share a pass."""
        if not texts:
            return []
        return self.logits(self.encode(queries, texts), score_tokens(self.model.device.type)).tolist()

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Scores of one query's documents, in input order; evaluate and serve call this."""
        return self.score_pairs([query] * len(texts), texts)


def one_by_one(found: BatchEncoding) -> Encoded:
    """The same, by pair."""
    return [{key: found[key][row] for key in found} for row in range(len(found["input_ids"]))]


def in_order(found: Sequence[tuple[Sequence[int], Tensor]]) -> Tensor:
    """Values (P,) by place, from those of each pass."""
    places = torch.tensor([place for some, _ in found for place in some])
    return torch.cat([values for _, values in found])[torch.argsort(places).to(found[0][1].device)]


def spread(values_P: Tensor, mask_BN: Tensor) -> Tensor:
    """Values in the true slots of a mask, row by row; 0 in the others."""
    mask_BN = mask_BN.to(values_P.device)
    return torch.zeros(mask_BN.shape, device=values_P.device).masked_scatter(mask_BN, values_P)
