"""A cross-encoder's head reads the first token's state only: so the last layer need not compute any other's.

Of its six matrices only two, keys and values, then meet every token. Scores and gradients stay what they are.

Uses: the parts of an encoder's last layer (`attention.self`, `feed_forward_chunk`, transformers 5.17).

Upstream: transformers has no forward pass for the first token alone. Delete when it has one.

Breaks: a student does not score (AttributeError).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.roberta.modeling_roberta import RobertaLayer
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLayer

LAYERS = (BertLayer, RobertaLayer, XLMRobertaLayer)  # one and the same by construction; others stay as they are


def compute_cls_only(model: Any) -> None:
    """The last layer of an encoder among `LAYERS` gives (P, 1, D) from now on, instead of (P, L, D)."""
    layer = _last(model)
    if layer is not None and not model.config.is_decoder:
        layer.forward = functools.partial(_first, layer)


@contextlib.contextmanager
def compute_all_tokens(model: Any) -> Iterator[None]:
    """Within the block the last layer gives every token's state again."""
    layer = _last(model)
    cut = vars(layer).pop("forward", None) if layer is not None else None
    try:
        yield
    finally:
        if cut is not None:
            layer.forward = cut


def _last(model: Any) -> Any:
    layers: Any = getattr(getattr(model.base_model, "encoder", None), "layer", ())
    return layers[-1] if len(layers) and isinstance(layers[-1], LAYERS) else None


def _first(layer: Any, states_PLD: Tensor, mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """The layer's forward pass for the first token. `mask`: (P, 1, L, L), to add or boolean, or (P, L)."""
    attention, first_P1D = layer.attention.self, states_PLD[:, :1]
    if mask is not None:
        mask = mask[:, :, :1] if mask.dim() == 4 else mask[:, None, None].bool()

    def heads(projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)

    seen_P1D = (
        functional.scaled_dot_product_attention(
            heads(attention.query(first_P1D)),
            heads(attention.key(states_PLD)),
            heads(attention.value(states_PLD)),
            attn_mask=mask,
            dropout_p=attention.dropout.p if layer.training else 0.0,
        )
        .transpose(1, 2)
        .flatten(2)
    )
    return layer.feed_forward_chunk(layer.attention.output(seen_P1D, first_P1D))
