"""A causal LM on prompts and their targets: examples, packed so that none sees another; token loss, perplexity.

Nothing is padded: a forward pass holds one sequence of several examples. Their positions begin again at 0, and from
that alone transformers' attention knows where one ends: as a block-diagonal causal mask in `eager` and `sdpa`, as
sequences of their own in the flash kernels, sliding windows included. `check_apart` proves it of a model.
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

SkipFunction = Callable[[str], None]  # hears why an example was set aside: a stable category, then what was found


@dataclass(frozen=True)
class Example:
    """Token ids; `ids[start:]` is the target, which alone is learnt. `cut`: the end of the target did not fit.

    `names` and `targets`: of a list, the token that the answer calls each document by and the document's target, in
    the order shown; `place`: where in `ids` the first of these tokens stands. Empty where only tokens are learnt.
    """

    ids: Sequence[int]
    start: int
    cut: bool = False
    names: tuple[int, ...] = ()
    targets: tuple[float, ...] = ()
    place: int = 0


def fitted(prompt: Sequence[int], target: Sequence[int], max_length: int) -> Example:
    """An example of at most `max_length` tokens: the target loses its end, the prompt nothing.

    Raises `prompts.TooLong` for a prompt that leaves no room for a single token of the target.
    """
    if len(prompt) >= max_length:
        raise prompts.TooLong(f"{len(prompt)} tokens without the target, max_length is {max_length}")
    ids = array("i", [*prompt, *target][:max_length])  # a tenth of what a list takes: there may be millions
    return Example(ids, len(prompt), len(prompt) + len(target) > max_length)


def from_clicks(
    clicks: Iterable[Mapping[str, Any]], tokenizer: Any, max_length: int, reject: SkipFunction
) -> Iterator[Example]:
    """DisRanker's continued pre-training: the query is the prompt, title and summary are the target.

    Pieces are tokenized one by one and without a token before them, as the decoder student's tokenizer joins a query
    and a document: what was pre-trained is what the ranking layer reads later. `reject` hears of queries that leave
    no room for a target.
    """
    end = end_of(tokenizer)

    def ids(texts: Sequence[str]) -> list[list[int]]:
        return list(tokenizer(texts, add_special_tokens=False)["input_ids"])

    before, between = ids(prompts.PAIR)
    left = iter(clicks)
    while some := list(islice(left, 1024)):
        queries = ids([f" {click['query']}" for click in some])
        targets = ids([f" {prompts.clicked(click['title'], click['summary'])}" for click in some])
        for query, target in zip(queries, targets, strict=True):
            try:
                yield fitted([*before, *query, *between], [*target, end], max_length)
            except prompts.TooLong as error:
                reject(str(error))


# ---- packing ------------------------------------------------------------------------------------------------


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Indices in groups whose lengths sum to at most `room`: the longest first, each where it fits best.

    Raises `ValueError` for a length above `room`.
    """
    groups: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # groups by the room that they have left
    rooms: list[int] = []  # the keys of `by_room`, sorted
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        if length > room:
            raise ValueError(f"an example of {length} tokens does not fit into {room}")
        place = bisect_left(rooms, length)
        left = rooms[place] if place < len(rooms) else room
        if place == len(rooms):
            groups.append([])
            number = len(groups) - 1
        else:
            number = by_room[left].pop()
            if not by_room[left]:
                del by_room[left]
                del rooms[place]
        groups[number].append(index)
        if left - length not in by_room:
            by_room[left - length] = []
            insort(rooms, left - length)
        by_room[left - length].append(number)
    return groups


class PackedSequences(Sequence[list[Example]]):
    """Sequences of examples, by the examples' numbers: an example is fetched when its sequence is asked for."""

    def __init__(self, examples: Sequence[Example], groups: Sequence[Sequence[int]]) -> None:
        self.examples, self.groups = examples, groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return PackedSequences(self.examples, self.groups[number])
        return [self.examples[index] for index in self.groups[number]]


def pack_examples(examples: Sequence[Example], room: int) -> PackedSequences:
    """Examples in sequences of at most `room` tokens."""
    return PackedSequences(examples, pack([len(one.ids) for one in examples], room))


class DiskExamples(Sequence[Example]):
    """Examples on local disk, in a file that goes with the process: memory holds 8 bytes of each."""

    def __init__(self, examples: Iterable[Example] = ()) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the shelf)
        self.ends = array("q", [0])  # where in the file each example ends
        self.extend(examples)

    def extend(self, examples: Iterable[Example]) -> None:
        for example in examples:
            self.file.write(found := pickle.dumps(example, pickle.HIGHEST_PROTOCOL))
            self.ends.append(self.ends[-1] + len(found))
        self.file.flush()

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[index] for index in range(len(self))[number]]
        number = range(len(self))[number]  # IndexError past the end, which ends an iteration
        start, end = self.ends[number], self.ends[number + 1]
        return pickle.loads(os.pread(self.file.fileno(), end - start, start))


@dataclass(frozen=True)
class Joined:
    """Examples as one row of L tokens with T targets. `places_T`: the positions that predict `wanted_T`.

    `first_E`: where in T the target of each of the E examples begins.
    """

    ids_1L: Tensor
    positions_1L: Tensor
    places_T: Tensor
    wanted_T: Tensor
    first_E: list[int]


def join_examples(examples: Sequence[Example], device: str | torch.device = "cpu") -> Joined:
    """One row of the examples, one behind the other."""
    ids: list[int] = []
    positions: list[int] = []
    places: list[int] = []
    first: list[int] = []
    for example in examples:
        offset = len(ids)
        first.append(len(places))
        ids += example.ids
        positions += range(len(example.ids))
        places += range(offset + example.start - 1, len(ids) - 1)
    ids_1L, places_T = torch.tensor([ids], device=device), torch.tensor(places, device=device)
    return Joined(ids_1L, torch.tensor([positions], device=device), places_T, ids_1L[0, places_T + 1], first)


# ---- the model ----------------------------------------------------------------------------------------------


def logits(model: Any, joined: Joined) -> Tensor:
    """(T, V), float32: what the model expects at every target token. Other positions are not projected."""
    found = model(
        input_ids=joined.ids_1L,
        position_ids=joined.positions_1L,
        attention_mask=None,  # positions that begin again say where an example ends
        use_cache=False,
        logits_to_keep=joined.places_T,
    )
    return found.logits[0].float()


def nll(logits_TV: Tensor, wanted_T: Tensor) -> Tensor:
    """(T,): the negative log-likelihood of each target token, in nats."""
    return F.cross_entropy(logits_TV, wanted_T, reduction="none")


@torch.inference_mode()
def mean_nll(model: Any, examples: Sequence[Example], room: int) -> float:
    """The mean over all target tokens of all examples, in nats; `math.exp` of it is the perplexity."""
    total, count = 0.0, 0
    for some in pack_examples(examples, room):
        joined = join_examples(some, model.device)
        total += float(nll(logits(model, joined), joined.wanted_T).double().sum())
        count += len(joined.wanted_T)
    return total / count if count else math.nan


@torch.inference_mode()
def check_apart(model: Any) -> None:
    """Raises `ValueError` if packed examples see each other: if another first one changes what is said of a second.

    True of models whose layers carry a state from token to token (Mamba), or have masks of their own.
    """
    second = Example([7, 8, 9, 10, 11, 12], 1)
    one, other = (logits(model, join_examples([Example(ids, 1), second])) for ids in ([1, 2, 3, 4], [5, 6, 5, 6]))
    change = (one - other)[3:].abs().max()
    if float(change) > 1e-2 * float(one.std()):
        kind = type(model).__name__
        found = f"{kind} with {model.config._attn_implementation} attention lets packed examples see each other"
        raise InvalidInput(found, "choose a transformer that transformers' masking_utils serve")
