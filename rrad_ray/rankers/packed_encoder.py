"""Scoring by an encoder on CPUs over packed tokens: one pair after the other, (T, D), without padding between them.

Serves the families of BERT and RoBERTa (MiniLM, bge-reranker), whose layers are alike. Products are oneDNN's, with
bias, GELU or residual fused in; or of whole numbers (`int8`). Attention is a kernel of our own where there is one: in
bfloat16 on a CPU with AMX (`amx`, layer norm too), or with AVX2 or AVX-512 (`vectors`); nothing is padded.
Elsewhere torch's attention gets pairs padded to a multiple of `ROW_MULTIPLE` tokens: it takes up to twice as long for
a length that fills no whole vector.
The rows of a product are padded to one of a few numbers (`product_rows`): oneDNN makes and keeps kernels for each
number of rows. That takes longer than the product itself and, over some hundred of them, 300 MiB.

A lane is a scoring thread with torch threads of its own. Lanes take parts of the pairs, where torch's threads take
parts of each product: lanes wait for each other once, at the end, and not sixty times a pass, each time for the one
whose core another process slows down.
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

from rrad_ray.errors import InvalidInput
from rrad_ray.patches import torch_onednn
from rrad_ray.rankers import amx, vectors
from rrad_ray.rankers.int8 import Int8Layer

ROW_MULTIPLE = 32

LANES = 4  # no more score at once, because Python starts their operations one at a time

MIN_PART_TOKENS = 256  # fewer tokens are not worth a lane

# In larger parts each token takes longer, in a part of 16,000 tokens 1.6 times as long; and products of more numbers
# of rows come up, whose kernels and results take memory.
MAX_PART_TOKENS = 1024

FAMILIES = ("bert", "roberta", "xlm-roberta")


_POOL_LOCK = threading.Lock()  # the first calls may come together, and both would start a pool

Group = tuple[Tensor, Tensor, Tensor]  # of `attention_groups`

# Queries, keys and values (T, 3 D) to attention's output (T, D); with True, for each pair's first token only.
Attention = Callable[[Any, bool], Tensor]


def fits(model: Any) -> bool:
    """Return whether `PackedEncoder` supports the model.

    It takes encoders of `FAMILIES` with GELU, absolute positions and a head on `[CLS]`, on a CPU with oneDNN.
    """
    config = model.config
    if config.model_type not in FAMILIES or model.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not torch_onednn.multiplies(model.dtype):
        return False
    return config.hidden_act == "gelu" and getattr(config, "position_embedding_type", "absolute") == "absolute"


def _vectors(model: Any, wide: float) -> vectors.Vectors | None:
    """Return our vector kernels if they run here and fit a model whose heads have `wide` dimensions."""
    sizes = (wide, model.config.intermediate_size)
    if model.dtype not in (torch.float32, torch.bfloat16) or any(size % vectors.WIDTH for size in sizes):
        return None
    kernels = vectors.vector_kernels()
    return vectors.Vectors(kernels) if kernels else None


class Linear:
    """A linear layer with a copy of its weight in oneDNN's own layout."""

    def __init__(self, *parts: Any) -> None:
        """Join `parts`, linear layers with the same input, into one whose outputs stand side by side."""
        weight = torch.cat([part.weight.detach() for part in parts])
        self.weight = torch_onednn.reordered(weight)
        self.bias = torch.cat([part.bias.detach() for part in parts])

    def __call__(self, x_TD: Tensor, *, gelu: bool = False, add: Tensor | None = None) -> Tensor:
        """Return the layer's output for `x_TD`, after GELU, or with the residual `add` added."""
        if add is not None:
            return torch_onednn.linear_add(x_TD, self.weight, self.bias, add)
        return torch_onednn.linear(x_TD, self.weight, self.bias, gelu=gelu)


class Layer:
    """The products and norms of one transformer layer."""

    def __init__(self, layer: Any, kernels: ctypes.CDLL | None) -> None:
        attention = layer.attention
        self.qkv = Linear(attention.self.query, attention.self.key, attention.self.value)
        self.out, self.up = Linear(attention.output.dense), Linear(layer.intermediate.dense)
        self.down = Linear(layer.output.dense)
        norms = (attention.output.LayerNorm, layer.output.LayerNorm)
        self.norm, self.last_norm = (amx.LayerNorm(kernels, norm) if kernels else norm for norm in norms)

    def __call__(self, x_TD: Tensor, attention: Attention, cls_P: Tensor | None) -> Tensor:
        """Return the states after this layer, of all tokens or of those at `cls_P`."""
        context_TD = attention(self.qkv(x_TD), cls_P is not None)
        x_TD = x_TD if cls_P is None else x_TD[cls_P]
        x_TD = self.norm(self.out(context_TD, add=x_TD))
        return self.last_norm(self.down(self.up(x_TD, gelu=True), add=x_TD))


class PackedEncoder:
    """A cross-encoder that scores packed pairs with the weights of a Hugging Face model, copied.

    Later changes to the model's layers do not change the scores.
    """

    def __init__(self, model: Any, *, int8: bool = False) -> None:
        """Copy the layers of a model that `fits`, as numbers in int8 where asked.

        Raises `ValueError` where our kernels, which int8 needs, do not run or do not fit the model.
        """
        self.model, self.base = model, model.base_model
        self.heads = model.config.num_attention_heads
        wide = model.config.hidden_size / self.heads
        self.kernels = amx.library() if model.dtype == torch.bfloat16 and wide in amx.WIDTHS else None
        self.vectors = _vectors(model, wide)
        if int8 and not self.vectors:
            needs = f"a CPU with AVX2, a C compiler and heads of a multiple of {vectors.WIDTH} dimensions"
            raise InvalidInput(f"precision=int8 needs {needs}", "set precision=auto")
        layers = self.base.encoder.layer
        self.layers: list[Any] = [Layer(layer, self.kernels) for layer in layers] if not int8 else []
        if int8 and self.vectors:
            norms = [self.base.embeddings.LayerNorm, *(layer.output.LayerNorm for layer in layers)]
            self.layers = [Int8Layer(*pair, self.vectors) for pair in zip(layers, norms[:-1], strict=True)]
        # RoBERTa numbers positions from the one behind padding's.
        self.first_position = 0 if model.config.model_type == "bert" else model.config.pad_token_id + 1

    @property
    def lanes(self) -> int:
        """The number of parts that are scored at once, of one call or of several."""
        return min(LANES, torch.get_num_threads())

    def __call__(self, pairs: Sequence[dict[str, list[int]]], tokens: int) -> Tensor:
        """Return the scores (P,) of encoded pairs in float32, computed in parts of about `tokens` tokens at most."""
        sizes = [len(pair["input_ids"]) for pair in pairs]
        by_length = sorted(range(len(pairs)), key=sizes.__getitem__)
        lanes = self.lanes
        # Each part has pairs of all lengths, so that all parts take equally long.
        full = lanes * min(tokens, MAX_PART_TOKENS)
        count = max(1, min(lanes * -(-sum(sizes) // full), sum(sizes) // MIN_PART_TOKENS))
        parts = [by_length[first::count] for first in range(min(count, len(pairs)))]
        chosen = ([pairs[index] for index in part] for part in parts)
        run = map if lanes == 1 or len(parts) == 1 else _thread_pool(lanes, torch.get_num_threads() // lanes).map
        # The dtype is named: transformers changes torch's default, for all threads, while it loads a model.
        scores_P = torch.empty(len(pairs), dtype=torch.float32)
        for part, scores in zip(parts, run(self._scores, chosen), strict=True):
            scores_P[part] = scores
        return scores_P

    @torch.inference_mode()  # here too: the mode belongs to a thread, and this is a lane's
    def _scores(self, pairs: Sequence[dict[str, list[int]]]) -> Tensor:
        """Return the scores (P,) of one part, on the torch threads of the thread that calls it."""
        lengths = [len(pair["input_ids"]) for pair in pairs]
        starts = [0, *accumulate(lengths)]
        x_TD, cls_P = self._embedded(pairs, lengths), padded_rows(starts[:-1])
        attention = self._attention(lengths, starts, len(cls_P))
        for layer in self.layers:
            last = layer is self.layers[-1]  # the head reads its state of [CLS] only
            x_TD = layer(x_TD, attention, cls_P if last else None)
        states_P1D = x_TD[: len(pairs), None]
        pooler = getattr(self.base, "pooler", None)
        head = self.model.classifier
        return (head(pooler(states_P1D)) if pooler is not None else head(states_P1D))[:, 0].float()

    def _embedded(self, pairs: Sequence[dict[str, list[int]]], lengths: Sequence[int]) -> Tensor:
        """Return the states (T, D) of the pairs' tokens before the first layer."""
        parts, first = self.base.embeddings, self.first_position
        ids = padded_rows([token for pair in pairs for token in pair["input_ids"]])
        positions = padded_rows([position for length in lengths for position in range(first, first + length)])
        x_TD = parts.word_embeddings(ids) + parts.position_embeddings(positions)
        if "token_type_ids" in pairs[0]:
            kinds = padded_rows([kind for pair in pairs for kind in pair["token_type_ids"]])
            return parts.LayerNorm(x_TD + parts.token_type_embeddings(kinds))
        return parts.LayerNorm(x_TD + parts.token_type_embeddings.weight[0])

    def _attention(self, lengths: Sequence[int], starts: Sequence[int], cls_rows: int) -> Attention:
        """Return attention over pairs by the best kernel; its output for their first tokens has `cls_rows` rows."""
        kernels, ours, starts_P1 = self.kernels, self.vectors, torch.tensor(starts)

        def sizes(qkv_TX: Any, first_only: bool) -> dict[str, Any]:
            return {"rows": cls_rows if first_only else len(qkv_TX), "first_only": first_only}

        if kernels:
            return lambda qkv, first: amx.attention(kernels, qkv, starts_P1, self.heads, **sizes(qkv, first))
        if ours:
            return lambda qkv, first: ours.attention(qkv, starts_P1, self.heads, **sizes(qkv, first))
        return self._attention_by_torch(lengths)

    def _attention_by_torch(self, lengths: Sequence[int]) -> Attention:
        """Return attention by torch, run for run of pairs of one padded length."""
        groups = attention_groups(lengths, self.model.dtype)

        def attention(qkv_TX: Tensor, first_only: bool) -> Tensor:
            outputs = []
            for rows_GL, mask_G11L, kept in groups:
                size, length = rows_GL.shape
                qkv = qkv_TX.index_select(0, rows_GL.flatten()).view(size, length, 3, self.heads, -1)
                query, key, value = (qkv[:, :, part].transpose(1, 2) for part in range(3))
                query = query[:, :, :1] if first_only else query
                out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_G11L).transpose(1, 2)
                out = out.reshape(-1, self.heads * out.shape[-1])
                outputs.append(out if first_only else out.index_select(0, kept))
            rows = sum(map(len, outputs))
            return torch.cat([*outputs, out.new_zeros(product_rows(rows) - rows, out.shape[1])])

        return attention


def _thread_pool(count: int, threads: int) -> ThreadPoolExecutor:
    """Return this process's pool of `count` lanes, each limited to `threads` torch threads."""
    with _POOL_LOCK:
        return _start_thread_pool(count, threads)


@functools.cache  # a pool lives as long as the process: a thread's torch threads are set when it starts, and stay
def _start_thread_pool(count: int, threads: int) -> ThreadPoolExecutor:
    """Start the lanes of `_thread_pool`.

    `torch.set_num_threads` sets the number of the thread that calls it, and the one that threads take which have not
    asked for theirs yet. So each lane asks first and then sets its own; when all have, the process's number is put
    back for threads that are yet to come.
    """
    process_threads = torch.get_num_threads()

    def limit_threads() -> None:
        torch.get_num_threads()  # the first question of a thread sets its number, and would undo the next line later
        torch.set_num_threads(threads)

    pool = ThreadPoolExecutor(count, "rrad-lane", limit_threads)
    all_started = threading.Barrier(count)  # a pool starts a thread only when none is idle
    list(pool.map(lambda _: all_started.wait(), range(count)))
    torch.set_num_threads(process_threads)
    return pool


def product_rows(count: int) -> int:
    """Return the number of rows that a product of `count` rows is padded to: a multiple of `ROW_MULTIPLE`, of which
    eight at most are used between one power of two and the next."""
    multiple = max(ROW_MULTIPLE, 1 << max(0, (count - 1).bit_length() - 4))
    return -(-count // multiple) * multiple


def padded_rows(values: Sequence[int]) -> Tensor:
    """Return the values, and zeros behind them, as many as `product_rows` says."""
    return torch.tensor([*values, *[0] * (product_rows(len(values)) - len(values))])


def attention_groups(lengths: Sequence[int], dtype: torch.dtype) -> list[Group]:
    """Return what torch's attention needs to read packed tokens: a group for each run of pairs of one padded length.

    A group of G pairs of length L after padding: the packed rows (G, L) of their tokens, the mask (G, 1, 1, L) that
    is added to attention's logits (0, or -inf for padding), and which of the G * L tokens are no padding.
    """
    lengths_P = torch.tensor(lengths)
    starts_P = lengths_P.cumsum(0) - lengths_P
    groups: list[Group] = []
    done = 0
    for steps, run in groupby(-(-length // ROW_MULTIPLE) for length in lengths):
        some = slice(done, done := done + len(list(run)))
        steps_L = torch.arange(steps * ROW_MULTIPLE)
        real_GL = steps_L < lengths_P[some, None]
        rows_GL = torch.where(real_GL, starts_P[some, None] + steps_L, starts_P[some, None])
        mask = torch.zeros(real_GL.shape, dtype=dtype).masked_fill(~real_GL, float("-inf"))[:, None, None]
        groups.append((rows_GL, mask, real_GL.flatten().nonzero()[:, 0]))
    return groups
