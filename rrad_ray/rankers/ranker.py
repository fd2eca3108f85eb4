"""The student as a torch module that scores documents for a query, in training, evaluation and serving alike.

A student is a plain Hugging Face sequence-classification checkpoint with one output. Its tokenizer joins query and
document (`tokenizer(query, document)`), for the decoder too, so that other software (transformers,
sentence-transformers' `CrossEncoder`, vLLM `/score`, TEI) computes the same scores without our code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchEncoding

from rrad_ray.config.base import check_backend
from rrad_ray.errors import InvalidInput
from rrad_ray.rankers import backends, loading
from rrad_ray.rankers.checkpoint import PAD, add_pad_token, check_tokenizer, with_pair_template, write_checkpoint
from rrad_ray.rankers.precision import dtype_of

Encoded = list[dict[str, list[int]]]  # encoded pairs: for each its token ids, mask and the like, not padded

# Passes are padded to a multiple of this length: oneDNN makes and keeps kernels for each shape that it meets, 650 MiB
# of them within 25 steps of the demo's student, and GPUs multiply such shapes faster.
PAD_MULTIPLE = 16

# A fast tokenizer also makes all that it cuts off: of a pair each part of one text with each part of the other. Of
# 2,000 and of 20,000 tokens these are gigabytes.
MOST_COMBINED = 64


def score_tokens(device: str) -> int:
    """Return the tokens of a forward pass when scoring, padding included: enough to keep the device busy."""
    return 4096 if device == "cpu" else 65536


def train_tokens(device: str) -> int:
    """Return the tokens of a forward pass when training, padding included.

    They are fewer than when scoring, because a pass keeps what the backward pass needs.
    """
    return 2048 if device == "cpu" else 16384


class Ranker(nn.Module):
    """A student: a model and its tokenizer, which give each pair of a query and a document one score.

    Encoder: RRA-BERT at inference, a cross-encoder with a score from `[CLS]`. Decoder: the ranking layer, a linear
    score from the hidden state of the last token.

    `load` a saved student, `score` the documents of a query, or `score_pairs` of several queries. A score is the
    model's logit: it has no unit, the more relevant document has the higher one, and scores of two models cannot be
    compared. A pair's score does not depend on the other pairs, up to rounding. Several threads may score with one
    ranker.
    """

    def __init__(self, model: Any, tokenizer: Any, max_length: int) -> None:
        super().__init__()
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length
        self.backend: backends.Scorer | None = None  # scores in the model's place; set by `load`

    # ---- load, create and save ----

    @classmethod
    def load(cls, folder: str, *, device: str = "cpu", dtype: str = "auto", backend: str = "torch") -> Ranker:
        """Load a saved student to score with, in evaluation mode.

        `folder`: a checkpoint as `save` writes it, such as `model` in the output of the stage train. `device`: a
        torch device, `cpu` or `cuda`. `backend`: `torch`, `compile`, or on CPUs `openvino` or `onnx`. `dtype`:
        `bfloat16`, `float32`, for encoders on CPUs with `torch` or `onnx` also `int8`; `auto` is float32 with `onnx`,
        and elsewhere the faster of bfloat16 and float32 here (`precision.best_dtype`).

        Raises `ValueError` if the folder holds no ranker with all its weights, as `loading.check_pairs` and
        `check_backend` do, or if the backend's library is not installed, or does not support or compile the model.
        """
        loading.check_head(folder)
        dtype = number_format(folder, dtype, backend, device)
        converted = dtype == "int8" or backend not in ("torch", "compile")
        model_dtype = torch.float32 if converted else dtype_of(dtype)
        model = loading.load_ranker(folder, dtype=model_dtype).to(device)
        tokenizer = loading.load_tokenizer(folder, model)
        loading.check_pairs(tokenizer)
        ranker = cls(model, tokenizer, loading.usable_length(tokenizer, model)).eval()
        ranker.backend = backends.make(ranker, backend, dtype)
        return ranker

    @classmethod
    def encoder(cls, source: str, *, max_length: int, layers: int = 0) -> Ranker:
        """Return a new encoder student on a pretrained encoder, with a head drawn at random.

        `max_length`: tokens of a pair. `layers`: the first layers that are kept; 0 keeps all. A tokenizer without a
        pad token gets the one that the model names, or a new one: batches need it, and attention hides it. Raises
        `ValueError` as `check_tokenizer` does, for a pretrained model that is not whole, and for one with fewer
        positions than `max_length`.
        """
        model = loading.load_student(source, **({"num_hidden_layers": layers} if layers else {}))
        tokenizer = loading.load_tokenizer(source, model)
        check_tokenizer(tokenizer, "encoder")
        if tokenizer.pad_token is None and model.config.pad_token_id is not None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.config.pad_token_id)
        elif tokenizer.pad_token is None:
            add_pad_token(model, tokenizer)
        return cls._prepare(model, tokenizer, max_length)

    @classmethod
    def decoder(cls, source: str, *, max_length: int, layers: int = 0) -> Ranker:
        """Return a new decoder student on a causal LM, with a ranking layer, drawn at random, on the last token.

        `max_length`: tokens of a pair. `layers`: the first layers that are kept; 0 keeps all.

        DisRanker appends the end-of-sequence token and scores its state; RRA-GPT scores the last prompt token. Here
        the last prompt token *is* an end-of-sequence token. It must not double as padding, or libraries differ
        about which token is the last one: the checkpoint gets a pad token of its own. A `source` that is a decoder
        student has all this already. Raises `ValueError` for a tokenizer without an end-of-sequence token, and for a
        pretrained model as `encoder` does.
        """
        model = loading.load_student(source, **({"num_hidden_layers": layers} if layers else {}))
        tokenizer = loading.load_tokenizer(source, model)
        check_tokenizer(tokenizer, "decoder")
        if tokenizer.pad_token == PAD:
            return cls._prepare(model, tokenizer, max_length)
        add_pad_token(model, tokenizer)
        return cls._prepare(model, with_pair_template(tokenizer), max_length)

    @classmethod
    def _prepare(cls, model: Any, tokenizer: Any, max_length: int) -> Ranker:
        """Return the student of a model and a tokenizer, with what its checkpoint has to say about both."""
        loading.check_positions(model, max_length)
        loading.check_room(tokenizer, max_length, pair=True)
        tokenizer.model_max_length = max_length
        # sentence-transformers puts a sigmoid on a single output unless the checkpoint says otherwise.
        model.config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
        return cls(model, tokenizer, max_length)

    def save(self, folder: str | Path, float32_weights: Mapping[str, Tensor] | None = None) -> None:
        """Write a plain Hugging Face checkpoint folder in float32.

        `float32_weights`: float32 copies of this module's parameters, by name, written in place of its own; training
        keeps them beside a model in bfloat16.
        """
        weights = {name.removeprefix("model."): tensor for name, tensor in (float32_weights or {}).items()}
        write_checkpoint(folder, self.model, self.tokenizer, weights, torch.float32)

    @property
    def parameters_count(self) -> int:
        """The number of the model's weights."""
        return sum(weight.numel() for weight in self.model.parameters())

    # ---- score ----

    def _tokenized(self, *texts: Sequence[str], **options: Any) -> BatchEncoding:
        """Return the encoding of texts, or of pairs of them, cut to `max_length` tokens.

        A fast tokenizer keeps the truncation of the last call, for all threads that use it. So every call has the
        same one, and none changes another's result. Special tokens in the texts, such as `[SEP]`, are text.
        """
        options |= {"truncation": True, "max_length": self.max_length, "split_special_tokens": True}
        return self.tokenizer(*map(list, texts), **options)

    def tokenize(self, queries: Sequence[str], texts: Sequence[str]) -> BatchEncoding:
        """Return the encoding of pairs, cut to `max_length` tokens each (the longer of the two first)."""
        return self._tokenized(*shortened(self, queries, texts))

    def encode(self, queries: Sequence[str], texts: Sequence[str]) -> Encoded:
        """Return the model's inputs for each pair, not padded: token ids and the like."""
        return one_by_one(self.tokenize(queries, texts))

    def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
        """Return each text up to the end of its token number `tokens`, which is at most `max_length`."""
        encoded = self._tokenized(texts, add_special_tokens=False, return_offsets_mapping=True)
        ends = [offsets[:tokens][-1][1] if offsets else 0 for offsets in encoded["offset_mapping"]]
        return [text[:end] for text, end in zip(texts, ends, strict=True)]

    def _pass_indices(self, pairs: Encoded, tokens: int) -> Iterator[list[int]]:
        """Yield the indices of the pairs of each pass: pairs of similar length, at most `tokens` padded tokens.

        A pass has one pair at least, however long.
        """
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
        """Yield the passes over encoded pairs: the indices of its pairs (P), and their tensors (P, L).

        A pass has pairs of similar length and at most `tokens` padded tokens, but one pair at least.
        """
        for indices in self._pass_indices(pairs, tokens):
            yield indices, self.padded([pairs[index] for index in indices])

    def padded(self, pairs: Encoded) -> BatchEncoding:
        """Return encoded pairs as the tensors (P, L) of one pass, on the model's device."""
        length = max(map(self._length, pairs))
        batch = self.tokenizer.pad(list(pairs), padding="max_length", max_length=length, return_tensors="pt")
        return batch.to(self.model.device)

    def _length(self, pair: Mapping[str, Sequence[int]]) -> int:
        """Return the padded length, in tokens, of a pass whose longest pair is `pair`."""
        length = len(pair["input_ids"])
        return max(length, min(self.max_length, length + -length % PAD_MULTIPLE))

    def logits(self, pairs: Encoded, tokens: int) -> Tensor:
        """Return the scores (P,) of encoded pairs in float32, computed in passes of at most `tokens` padded tokens.

        The backend computes them, or the model itself where gradients are needed.
        """
        if self.backend is not None and not torch.is_grad_enabled():
            return of_distinct(pairs, tokens, self.backend)
        return self.in_passes(pairs, tokens, lambda chunk: self.model(**chunk).logits)

    def in_passes(self, pairs: Encoded, tokens: int, run: Callable[[BatchEncoding], Tensor]) -> Tensor:
        """Return the scores (P,) of encoded pairs in float32, from `run`, which scores one pass (P, 1)."""
        return in_order([(indices, run(chunk)[:, 0].float()) for indices, chunk in self.passes(pairs, tokens)])

    def forward(self, pairs: Encoded, mask_BN: Tensor, tokens: int) -> Tensor:
        """Return scores_BN (B queries, N slots) of the encoded pairs, which fill the true slots of `mask_BN` by row.

        The other slots are 0. `tokens`: padded tokens of a pass.
        """
        return spread(self.logits(pairs, tokens), mask_BN)

    @torch.inference_mode()
    def score_pairs(self, queries: Sequence[str], texts: Sequence[str]) -> list[float]:
        """Return the scores of pairs, query i with text i, in input order.

        Both have the same length. Pairs longer than `max_length` tokens are truncated, the longer of the two texts
        first. Pairs of several queries share passes. No pairs give an empty list. Raises `ValueError` for a string.
        """
        _check_lists(queries, texts)
        if not texts:
            return []
        return self.logits(self.encode(queries, texts), score_tokens(self.model.device.type)).tolist()

    def score(self, query: str, texts: Iterable[str]) -> list[float]:
        """Return the scores of a query's documents, in input order; `score_pairs` says more."""
        listed = texts if isinstance(texts, str) else list(texts)
        return self.score_pairs([query] * len(listed), listed)


def shortened(ranker: Ranker, queries: Sequence[str], texts: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return pairs of which a tokenizer has little to cut off: of long ones, `max_length` tokens of each text.

    What is read of them stays the same, but for one token where both are longer than that.
    """
    size = ranker.max_length
    parts = [(len(query) // size) * (len(text) // size) for query, text in zip(queries, texts, strict=True)]
    long = [index for index, combined in enumerate(parts) if combined > MOST_COMBINED]
    if not long or not ranker.tokenizer.is_fast:
        return queries, texts
    whole = list(dict.fromkeys(each for index in long for each in (queries[index], texts[index])))
    known = dict(zip(whole, ranker.cut(whole, size), strict=True))
    pairs = [list(queries), list(texts)]
    for index in long:
        pairs[0][index], pairs[1][index] = known[queries[index]], known[texts[index]]
    return pairs[0], pairs[1]


def of_distinct(pairs: Encoded, tokens: int, score: backends.Scorer) -> Tensor:
    """Return the scores (P,) of encoded pairs, of which `score` gets each once: the same tokens have the same score,
    whatever else is in a pass."""
    keys = [tuple(pair["input_ids"]) for pair in pairs]
    distinct = dict(zip(keys, pairs, strict=True))
    number_of = {key: number for number, key in enumerate(distinct)}
    return score(list(distinct.values()), tokens)[[number_of[key] for key in keys]]


def number_format(folder: str, dtype: str, backend: str, device: str) -> str:
    """Return the number format in which `Ranker.load` computes with these arguments: `auto` becomes one. Raises
    `ValueError` as `check_backend` and `loading.check_device` do."""
    check_backend(backend, dtype)
    loading.check_device(device)
    if dtype != "auto":
        return dtype
    best = torch.float32 if backend == "onnx" else dtype_of(dtype, device, loading.config_of(folder))
    return str(best).removeprefix("torch.")


def _check_lists(queries: Sequence[str], texts: Sequence[str]) -> None:
    """Raise `ValueError` for a string in place of a list, each of whose characters would be a text, for what is no
    list, for lists of different lengths, and for what is no text, or holds half a character."""
    if isinstance(queries, str) or isinstance(texts, str):
        raise InvalidInput("queries and texts are lists, and one is a string", "write [text] for a single one")
    if lacking := [each for each in (queries, texts) if not hasattr(each, "__len__")]:
        raise InvalidInput(f"{type(lacking[0]).__name__} is no list of texts", "write list(...) around it")
    if len(queries) != len(texts):
        problem = f"{len(queries)} queries for {len(texts)} texts"
        raise InvalidInput(problem, "give one query for each text, or use `score` for one query")
    for name, values in (("query", queries), ("text", texts)):
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise InvalidInput(f"{name} {index} is {type(value).__name__}, not a string", "give strings only")
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise InvalidInput(f"{name} {index} holds half a character ({error})", "cut between them") from error


def one_by_one(encoding: BatchEncoding) -> Encoded:
    """Return an encoding of several pairs as one dict for each pair."""
    return [{key: encoding[key][row] for key in encoding} for row in range(len(encoding["input_ids"]))]


def in_order(passes: Sequence[tuple[Sequence[int], Tensor]]) -> Tensor:
    """Return the values (P,) of all passes in the order of the pairs, from each pass's indices and values."""
    indices = torch.tensor([index for pass_indices, _ in passes for index in pass_indices])
    return torch.cat([values for _, values in passes])[torch.argsort(indices).to(passes[0][1].device)]


def spread(values_P: Tensor, mask_BN: Tensor) -> Tensor:
    """Return a float32 tensor (B, N) with the values in the true slots of the mask, row by row, and 0 elsewhere."""
    mask_BN = mask_BN.to(values_P.device)
    return torch.zeros(mask_BN.shape, device=values_P.device).masked_scatter(mask_BN, values_P)
