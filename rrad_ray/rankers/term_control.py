"""Token Selection and the Term Control Layer of RRA-BERT (Choi et al., 2024), used in training only.

The paper's abstract says that both exist and why: term matching is forced into the dense representation. Their form
is our reading of it. A saved student has neither.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rrad_ray.languages import Language
from rrad_ray.languages.analyser import analyser
from rrad_ray.languages.scripts import RUN

BEYOND = 40  # characters read behind the last token, so that a word that truncation cuts is compared whole


def select(query: str, text: str, encoding: Any, match: str = "word", language: Language = "auto") -> list[bool]:
    """Return Token Selection's mask over a pair's tokens: true where a document's token carries a term of the query.

    `encoding`: the pair as a fast tokenizer encodes it (`tokenizers.Encoding`). `match`: `word` marks the
    terms in the text (`Analyser.marks`), whatever the tokenizer makes of them; `token` compares token ids. Special
    tokens, the query's own tokens, punctuation and white space are never selected.
    """
    spans = [
        span if part == 1 and not special else (0, 0)
        for span, part, special in zip(
            encoding.offsets, encoding.sequence_ids, encoding.special_tokens_mask, strict=True
        )
    ]
    if match == "word":
        read = text[: max(end for _, end in spans) + BEYOND]
        hit = bytearray(len(read))
        for start, end in analyser(language).marks(query, read):
            hit[start:end] = b"\1" * (end - start)
        return [hit.find(1, start, end) >= 0 for start, end in spans]
    query_ids = {token for token, part in zip(encoding.ids, encoding.sequence_ids, strict=True) if part == 0}
    return [
        token in query_ids and RUN.search(text, start, end) is not None
        for token, (start, end) in zip(encoding.ids, spans, strict=True)
    ]


class TermControl(nn.Module):
    """The Term Control Layer: a second score of a pair, from the states of `[CLS]` and of the selected tokens.

    The selected states are pooled (`mean`, `max`, or `attention`: weights from a linear layer), a gate computed from
    `[CLS]` weighs each dimension, and a linear layer scores `[CLS]` and pooled state side by side. Where no token is
    selected the pooled state is zero, so the score is that of `[CLS]` alone. The form is our reading.
    """

    def __init__(self, size: int, *, pooling: str = "mean", gate: bool = True) -> None:
        super().__init__()
        self.pooling = pooling
        self.attention = nn.Linear(size, 1) if pooling == "attention" else None
        self.gate = nn.Linear(size, size) if gate else None
        self.score = nn.Linear(2 * size, 1)

    def forward(self, states_PLD: Tensor, selected_PL: Tensor) -> Tensor:
        """Return the scores (P,) in float32 of P pairs of L tokens, `[CLS]` first, with states of D dimensions."""
        cls_PD = states_PLD[:, 0]
        pooled_PD = torch.where(selected_PL.any(1, keepdim=True), self._pooled(states_PLD, selected_PL), 0.0)
        if self.gate is not None:
            pooled_PD = torch.sigmoid(self.gate(cls_PD)) * pooled_PD
        return self.score(torch.cat((cls_PD, pooled_PD), dim=1))[:, 0].float()

    def _pooled(self, states_PLD: Tensor, selected_PL: Tensor) -> Tensor:
        least = torch.finfo(states_PLD.dtype).min
        if self.pooling == "max":
            return states_PLD.masked_fill(~selected_PL[:, :, None], least).amax(1)
        logits_PL = states_PLD.new_zeros(()) if self.attention is None else self.attention(states_PLD)[:, :, 0]
        weights_PL = torch.where(selected_PL, logits_PL, least).softmax(1)  # equal logits give the mean
        return torch.bmm(weights_PL[:, None], states_PLD)[:, 0]


@contextlib.contextmanager
def states_of(model: Any) -> Iterator[list[Tensor]]:
    """Collect the last hidden states (P, L, D) of a Hugging Face model's body, one tensor for each pass in the block.

    They are the tensors that the model's own head reads: nothing is computed twice, and nothing is kept that training
    does not keep anyway.
    """
    states: list[Tensor] = []
    handle = model.base_model.register_forward_hook(lambda module, inputs, output: states.append(output[0]))
    try:
        yield states
    finally:
        handle.remove()
