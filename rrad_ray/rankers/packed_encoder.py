"""Scores of an encoder on CPUs without padding: every layer but attention runs over the tokens of a pass one after
the other, (T, D), in oneDNN's products with what follows them fused in.

For BERT's and RoBERTa's families (MiniLM, bge-reranker), whose layers are alike. In bfloat16 on a CPU with AMX,
attention and layer norm are kernels of our own, and nothing needs padding; torch's attention sees some, up to a
multiple of `STEP` tokens: it takes up to twice as long for a length that fills no whole vector.
Products have a multiple of `STEP` rows, the last ones of no meaning: oneDNN makes and keeps a kernel for each number
of rows that it meets, which takes longer than the product itself and, over some thousand of them, a gigabyte.

Threads take parts of the pairs instead of parts of each product: they wait for each other at the end alone, not sixty
times a pass, each time for the one whose core another process slows down.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rrad_ray.rankers import amx

ROW_MULTIPLE = 32

LANES = 4  # that score at once: Python starts each of their operations, for one of them at a time

LEAST = 256  # tokens that are worth a lane

MOST = 4096  # tokens of a part: in larger ones each takes longer, in one of 16,000 1.6 times as long

FAMILIES = ("bert", "roberta", "xlm-roberta")

ONEDNN = torch.ops.mkldnn

_MAKING = threading.Lock()  # of lanes: the first calls may come together

Group = tuple[Tensor, Tensor, Tensor]

Attended = Callable[[Tensor, bool], Tensor]  # what tokens, or each pair's first one only, read: (T, 3 D) -> (T, D)


def fits(model: Any) -> bool:
    """Whether this is such an encoder, with a head on `[CLS]`, on a CPU for which oneDNN is there."""
    config = model.config
    if config.model_type not in FAMILIES or model.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return config.hidden_act == "gelu" and getattr(config, "position_embedding_type", "absolute") == "absolute"


class Linear:
    """A linear layer with its weight as oneDNN wants it, made once."""

    def __init__(self, *parts: Any) -> None:
        """`parts`: layers with one input, whose outputs stand side by side."""
        weight = torch.cat([part.weight.detach() for part in parts])
        self.weight = ONEDNN._reorder_linear_weight(weight, 4096)
        self.bias = torch.cat([part.bias.detach() for part in parts])

    def __call__(self, x_TD: Tensor, *, gelu: bool = False, add: Tensor | None = None) -> Tensor:
        if add is not None:
            return ONEDNN._linear_pointwise.binary(x_TD, add, self.weight, self.bias, "add")
        return ONEDNN._linear_pointwise(x_TD, self.weight, self.bias, "gelu" if gelu else "none", [], "none")


class Layer:
    """The parts of an encoder's layer."""

    def __init__(self, layer: Any, ours: ctypes.CDLL | None) -> None:
        attention = layer.attention
        self.qkv = Linear(attention.self.query, attention.self.key, attention.self.value)
        self.out, self.up = Linear(attention.output.dense), Linear(layer.intermediate.dense)
        self.down = Linear(layer.output.dense)
        norms = (attention.output.LayerNorm, layer.output.LayerNorm)
        self.norm, self.last_norm = (amx.LayerNorm(ours, norm) if ours else norm for norm in norms)


class PackedEncoder:
    """A Hugging Face model with the weights of its layers copied, so that they must not change afterwards."""

    def __init__(self, model: Any) -> None:
        self.model, self.base = model, model.base_model
        self.heads = model.config.num_attention_heads
        known = model.dtype == torch.bfloat16 and model.config.hidden_size / self.heads in amx.WIDTHS
        self.ours = amx.library() if known else None
        self.layers = [Layer(layer, self.ours) for layer in self.base.encoder.layer]
        # RoBERTa counts positions from behind that of padding.
        self.first = 0 if model.config.model_type == "bert" else model.config.pad_token_id + 1

    @property
    def lanes(self) -> int:
        """How many parts are scored at once, be they of one call or of several."""
        return min(LANES, torch.get_num_threads())

    def __call__(self, pairs: Sequence[dict[str, list[int]]], tokens: int) -> Tensor:
        """Scores (P,) in float32 of encoded pairs, in parts of about `tokens` at most."""
        sizes = [len(pair["input_ids"]) for pair in pairs]
        by_length = sorted(range(len(pairs)), key=sizes.__getitem__)
        lanes = self.lanes
        # Each part has pairs of all lengths, so that all take as long.
        count = max(1, min(lanes * -(-sum(sizes) // (lanes * min(tokens, MOST))), sum(sizes) // LEAST))
        parts = [by_length[first::count] for first in range(min(count, len(pairs)))]
        chosen = ([pairs[place] for place in part] for part in parts)
        in_turn = map if lanes == 1 or len(parts) == 1 else _lanes(lanes, torch.get_num_threads() // lanes).map
        # Not torch's default type: transformers changes that, for all threads, while another one loads a model.
        scores_P = torch.empty(len(pairs), dtype=torch.float32)
        for part, scores in zip(parts, in_turn(self._scores, chosen), strict=True):
            scores_P[part] = scores
        return scores_P

    @torch.inference_mode()  # of the thread that calls it, which is another one than the caller's
    def _scores(self, pairs: Sequence[dict[str, list[int]]]) -> Tensor:
        """Scores (P,) of one part, by the threads of this thread."""
        lengths = [len(pair["input_ids"]) for pair in pairs]
        starts = [0, *accumulate(lengths)]
        x_TD, heads_P = self._embedded(pairs, lengths), filled(starts[:-1])
        attended = self._by_ours(self.ours, starts, len(heads_P)) if self.ours else self._by_torchs(lengths)
        for layer in self.layers:
            last = layer is self.layers[-1]  # of its states the head reads that of [CLS] alone
            context_TD = attended(layer.qkv(x_TD), last)
            x_TD = x_TD[heads_P] if last else x_TD
            x_TD = layer.norm(layer.out(context_TD, add=x_TD))
            x_TD = layer.last_norm(layer.down(layer.up(x_TD, gelu=True), add=x_TD))
        states_P1D = x_TD[: len(pairs), None]
        pooler = getattr(self.base, "pooler", None)
        head = self.model.classifier
        return (head(pooler(states_P1D)) if pooler is not None else head(states_P1D))[:, 0].float()

    def _embedded(self, pairs: Sequence[dict[str, list[int]]], lengths: Sequence[int]) -> Tensor:
        parts = self.base.embeddings
        ids = filled([token for pair in pairs for token in pair["input_ids"]])
        places = filled([place for length in lengths for place in range(self.first, self.first + length)])
        x_TD = parts.word_embeddings(ids) + parts.position_embeddings(places)
        if "token_type_ids" in pairs[0]:
            kinds = filled([kind for pair in pairs for kind in pair["token_type_ids"]])
            return parts.LayerNorm(x_TD + parts.token_type_embeddings(kinds))
        return parts.LayerNorm(x_TD + parts.token_type_embeddings.weight[0])

    def _by_ours(self, ours: ctypes.CDLL, starts: Sequence[int], firsts: int) -> Attended:
        """`firsts`: rows where only each pair's first token reads."""
        starts_P1 = torch.tensor(starts)

        def attended(qkv_TX: Tensor, first_only: bool) -> Tensor:
            rows = firsts if first_only else len(qkv_TX)
            return amx.attention(ours, qkv_TX, starts_P1, self.heads, rows=rows, first_only=first_only)

        return attended

    def _by_torchs(self, lengths: Sequence[int]) -> Attended:
        groups = attention_groups(lengths, self.model.dtype)

        def attended(qkv_TX: Tensor, first_only: bool) -> Tensor:
            found = []
            for places_GL, mask_G11L, kept in groups:
                size, length = places_GL.shape
                qkv = qkv_TX.index_select(0, places_GL.flatten()).view(size, length, 3, self.heads, -1)
                query, key, value = (qkv[:, :, part].transpose(1, 2) for part in range(3))
                query = query[:, :, :1] if first_only else query
                out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_G11L).transpose(1, 2)
                out = out.reshape(-1, self.heads * out.shape[-1])
                found.append(out if first_only else out.index_select(0, kept))
            found.append(out.new_zeros(-sum(map(len, found)) % ROW_MULTIPLE, out.shape[1]))
            return torch.cat(found)

        return attended


def _lanes(count: int, threads: int) -> ThreadPoolExecutor:
    """Those of this process, each with so many threads of torch's own."""
    with _MAKING:
        return _made(count, threads)


@functools.cache
def _made(count: int, threads: int) -> ThreadPoolExecutor:
    every = torch.get_num_threads()

    def begin() -> None:
        torch.get_num_threads()  # a thread's first question sets its number to what was set last, by whichever thread
        torch.set_num_threads(threads)

    found = ThreadPoolExecutor(count, "rrad-lane", begin)
    begun = threading.Barrier(count)
    list(found.map(lambda _: begun.wait(), range(count)))
    torch.set_num_threads(every)  # for threads that are yet to come
    return found


def filled(values: Sequence[int]) -> Tensor:
    """They, and zeros up to a multiple of `STEP`."""
    return torch.tensor([*values, *[0] * (-len(values) % ROW_MULTIPLE)])


def attention_groups(lengths: Sequence[int], dtype: torch.dtype) -> list[Group]:
    """How torch's attention reads packed tokens.

    For each run of G pairs that have the same length L after padding: the places (G, L) of their tokens, what is
    added to attention's logits (0, or -inf for padding), and which of the G * L are no padding.
    """
    lengths_P = torch.tensor(lengths)
    starts_P = lengths_P.cumsum(0) - lengths_P
    groups: list[Group] = []
    done = 0
    for steps, run in groupby(-(-length // ROW_MULTIPLE) for length in lengths):
        some = slice(done, done := done + len(list(run)))
        steps_L = torch.arange(steps * ROW_MULTIPLE)
        real_GL = steps_L < lengths_P[some, None]
        places_GL = torch.where(real_GL, starts_P[some, None] + steps_L, starts_P[some, None])
        mask = torch.zeros(real_GL.shape, dtype=dtype).masked_fill(~real_GL, float("-inf"))[:, None, None]
        groups.append((places_GL, mask, real_GL.flatten().nonzero()[:, 0]))
    return groups
