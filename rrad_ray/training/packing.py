"""Sequence packing for causal LMs: several examples in one sequence, none of which attends to another.

Nothing is padded: a forward pass holds one sequence of several examples. Each example's positions start at 0 again,
and from that alone transformers' attention infers where an example ends: a block-diagonal causal mask in `eager` and
`sdpa`, separate sequences in the flash kernels, sliding windows included. `check_isolation` proves it for a model.
"""

from __future__ import annotations

import math
import os
import pickle
import tempfile
from array import array
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rrad_ray import prompts
from rrad_ray.errors import InvalidInput
from rrad_ray.rankers.checkpoint import end_of


class ExampleSkipped(ValueError):
    """Why a row makes no example: a `category`, by which such rows are counted, and this row's `detail`."""

    def __init__(self, category: str, detail: str) -> None:
        super().__init__(category, detail)
        self.category, self.detail = category, detail

    def __str__(self) -> str:
        return f"{self.category}: {self.detail}"


SkipFunction = Callable[[ExampleSkipped], None]  # called for each row that makes no example


@dataclass(frozen=True)
class Example:
    """The token ids of a prompt and its target.

    Only `ids[start:]`, the target, is learnt. `cut`: the end of the target did not fit. For a rank loss over a list,
    `names` holds the token that stands for each document in the answer, and `targets` each document's target, both in
    the order shown; `name_index` is the index in `ids` of the answer's first such token. These are empty where only
    tokens are learnt.
    """

    ids: Sequence[int]
    start: int
    cut: bool = False
    names: tuple[int, ...] = ()
    targets: tuple[float, ...] = ()
    name_index: int = 0


def fitted(prompt: Sequence[int], target: Sequence[int], max_length: int) -> Example:
    """Return an example of at most `max_length` tokens: the end of the target is cut off, never the prompt.

    Raises `ExampleSkipped` for a prompt that leaves no room for a single token of the target.
    """
    if len(prompt) >= max_length:
        detail = f"{len(prompt)} tokens without the target, max_length is {max_length}"
        raise ExampleSkipped(prompts.TOO_LONG, detail)
    ids = array("i", [*prompt, *target][:max_length])  # a tenth of a list's memory: there may be millions
    return Example(ids, len(prompt), len(prompt) + len(target) > max_length)


def from_clicks(
    clicks: Iterable[Mapping[str, Any]], tokenizer: Any, max_length: int, skip: SkipFunction
) -> Iterator[Example]:
    """Yield examples of DisRanker's continued pre-training: the query is the prompt, title and summary the target.

    Pieces are tokenized separately and without special tokens, exactly as the decoder student's tokenizer joins query
    and document, so the ranking layer later reads what was pre-trained. `skip` is called for queries that leave no
    room for a target.
    """
    end = end_of(tokenizer)

    def ids(texts: Sequence[str]) -> list[list[int]]:
        return list(tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    before, between = ids(prompts.PAIR)
    remaining = iter(clicks)
    while batch := list(islice(remaining, 1024)):
        queries = ids([f" {click['query']}" for click in batch])
        targets = ids([f" {prompts.clicked(click['title'], click['summary'])}" for click in batch])
        for query, target in zip(queries, targets, strict=True):
            try:
                yield fitted([*before, *query, *between], [*target, end], max_length)
            except ExampleSkipped as reason:
                skip(reason)


# ---- packing ------------------------------------------------------------------------------------------------


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Return indices in groups whose lengths sum to at most `room`, by best-fit decreasing bin packing.

    Raises `ValueError` for a length above `room`.
    """
    groups: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # indices of groups by the room left in them
    rooms: list[int] = []  # the keys of `by_room`, sorted
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        if length > room:
            raise ValueError(f"an example of {length} tokens does not fit into {room}")
        best = bisect_left(rooms, length)  # the smallest room in which it fits
        left = rooms[best] if best < len(rooms) else room
        if best == len(rooms):
            groups.append([])
            group = len(groups) - 1
        else:
            group = by_room[left].pop()
            if not by_room[left]:
                del by_room[left]
                del rooms[best]
        groups[group].append(index)
        if left - length not in by_room:
            by_room[left - length] = []
            insort(rooms, left - length)
        by_room[left - length].append(group)
    return groups


class PackedSequences(Sequence[list[Example]]):
    """Sequences of examples, as groups of indices: an example is fetched when its sequence is asked for."""

    def __init__(self, examples: Sequence[Example], groups: Sequence[Sequence[int]]) -> None:
        self.examples, self.groups = examples, groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return PackedSequences(self.examples, self.groups[index])
        return [self.examples[number] for number in self.groups[index]]


def pack_examples(examples: Sequence[Example], room: int) -> PackedSequences:
    """Return the examples packed into sequences of at most `room` tokens."""
    return PackedSequences(examples, pack([len(example.ids) for example in examples], room))


class DiskExamples(Sequence[Example]):
    """Examples in a temporary file on local disk, which ends with the process: memory holds 8 bytes of each."""

    def __init__(self, examples: Iterable[Example] = ()) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  (closed with this object)
        self.ends = array("q", [0])  # offsets in the file at which examples end
        self.extend(examples)

    def extend(self, examples: Iterable[Example]) -> None:
        """Append examples to the file."""
        for example in examples:
            self.file.write(pickled := pickle.dumps(example, pickle.HIGHEST_PROTOCOL))
            self.ends.append(self.ends[-1] + len(pickled))
        self.file.flush()

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        index = range(len(self))[index]  # IndexError past the end, which ends an iteration
        start, end = self.ends[index], self.ends[index + 1]
        return pickle.loads(os.pread(self.file.fileno(), end - start, start))


@dataclass(frozen=True)
class Joined:
    """E examples as one row of L tokens, T of which are targets.

    `predicting_T`: the indices in L whose logits predict the tokens `wanted_T`. `first_E`: the index in T at which
    the target of each example starts.
    """

    ids_1L: Tensor
    positions_1L: Tensor
    predicting_T: Tensor
    wanted_T: Tensor
    first_E: list[int]


def join_examples(examples: Sequence[Example], device: str | torch.device = "cpu") -> Joined:
    """Return the examples concatenated into one row."""
    ids: list[int] = []
    positions: list[int] = []
    predicting: list[int] = []
    first: list[int] = []
    for example in examples:
        offset = len(ids)
        first.append(len(predicting))
        ids += example.ids
        positions += range(len(example.ids))
        predicting += range(offset + example.start - 1, len(ids) - 1)
    ids_1L, predicting_T = torch.tensor([ids], device=device), torch.tensor(predicting, device=device)
    positions_1L = torch.tensor([positions], device=device)
    return Joined(ids_1L, positions_1L, predicting_T, ids_1L[0, predicting_T + 1], first)


# ---- the model ----------------------------------------------------------------------------------------------


def logits(model: Any, joined: Joined) -> Tensor:
    """Return float32 logits (T, V) that predict the target tokens; other positions are not projected."""
    output = model(
        input_ids=joined.ids_1L,
        position_ids=joined.positions_1L,
        attention_mask=None,  # positions that start again say where an example ends
        use_cache=False,
        logits_to_keep=joined.predicting_T,
    )
    return output.logits[0].float()


def nll(logits_TV: Tensor, wanted_T: Tensor) -> Tensor:
    """Return the negative log-likelihood (T,) of each target token, in nats."""
    return F.cross_entropy(logits_TV, wanted_T, reduction="none")


@torch.inference_mode()
def mean_nll(model: Any, examples: Sequence[Example], room: int) -> float:
    """Return the mean negative log-likelihood over all target tokens, in nats; its `exp` is the perplexity.

    NaN without a target token.
    """
    total, count = 0.0, 0
    for sequence in pack_examples(examples, room):
        joined = join_examples(sequence, model.device)
        total += float(nll(logits(model, joined), joined.wanted_T).double().sum())
        count += len(joined.wanted_T)
    return total / count if count else math.nan


@torch.inference_mode()
def check_isolation(model: Any) -> None:
    """Raise `ValueError` if packed examples attend to each other.

    It compares the logits of an example behind two different first examples. They differ in models whose layers carry
    a state from token to token (Mamba), or build masks of their own.
    """
    second = Example([7, 8, 9, 10, 11, 12], 1)
    one, other = (logits(model, join_examples([Example(ids, 1), second])) for ids in ([1, 2, 3, 4], [5, 6, 5, 6]))
    change = (one - other)[3:].abs().max()
    if float(change) > 1e-2 * float(one.std()):
        kind = type(model).__name__
        problem = f"{kind} with {model.config._attn_implementation} attention lets packed examples see each other"
        raise InvalidInput(problem, "choose a transformer that transformers' masking_utils serve")
