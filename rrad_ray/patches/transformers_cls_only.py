"""A cross-encoder's head reads the first token's state only: so the last layer need not compute any other's.

Of its six matrices only two, keys and values, then meet every token. Scores and gradients stay what they are.

Uses: the parts of an encoder's last layer (`attention.self`, `feed_forward_chunk`), and that a model hands the
options of a call that it does not know to its layers (transformers 5.17).

Upstream: transformers has no forward pass for the first token alone. Delete when it has one.

Breaks: a student does not score (AttributeError), or does not train with a Term Control Layer (TypeError).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.roberta.modeling_roberta import RobertaLayer
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLayer


class FirstTokenLayer:
    """A last layer of an encoder that gives the first token's state only: (P, 1, D) from (P, L, D).

    A call of the model with `all_tokens=True` gets every token's state, (P, L, D), as the layer itself gives it.
    """

    attention: Any
    feed_forward_chunk: Any
    training: bool

    def forward(self, states_PLD: Tensor, mask: Tensor | None = None, *args: Any, **options: Any) -> Tensor:
        """Return the first token's state. `mask`: (P, 1, L, L), to add or boolean, or (P, L)."""
        if options.pop("all_tokens", False):
            whole: Tensor = super().forward(states_PLD, mask, *args, **options)  # type: ignore[misc]
            return whole
        attention, first_P1D = self.attention.self, states_PLD[:, :1]
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
                dropout_p=attention.dropout.p if self.training else 0.0,
            )
            .transpose(1, 2)
            .flatten(2)
        )
        output: Tensor = self.feed_forward_chunk(self.attention.output(seen_P1D, first_P1D))
        return output


class FirstTokenBertLayer(FirstTokenLayer, BertLayer):  # type: ignore[misc]
    """The last layer of BERT and MiniLM."""


class FirstTokenRobertaLayer(FirstTokenLayer, RobertaLayer):  # type: ignore[misc]
    """The last layer of RoBERTa."""


class FirstTokenXLMRobertaLayer(FirstTokenLayer, XLMRobertaLayer):  # type: ignore[misc]
    """The last layer of XLM-RoBERTa and bge-reranker."""


# The three are one and the same by construction; layers of other models stay as they are.
FIRST_TOKEN: dict[type, type] = {
    BertLayer: FirstTokenBertLayer,
    RobertaLayer: FirstTokenRobertaLayer,
    XLMRobertaLayer: FirstTokenXLMRobertaLayer,
}


def with_first_token_layer(model: Any) -> Any:
    """Return a model that was just loaded, whose last layer, if it is of a known kind, is a `FirstTokenLayer` now.

    The new layer has the old one's weights under their old names.
    """
    layers: Any = getattr(getattr(model.base_model, "encoder", None), "layer", ())
    if len(layers) and type(layers[-1]) in FIRST_TOKEN and not model.config.is_decoder:
        kind: Any = FIRST_TOKEN[type(layers[-1])]
        layer = kind.__new__(kind)
        layer.__dict__.update(vars(layers[-1]))
        layers[-1] = layer
    return model


def for_all_tokens(model: Any) -> dict[str, bool]:
    """Return the options with which a call of the model computes every token's state in its last layer."""
    return {"all_tokens": True} if any(isinstance(layer, FirstTokenLayer) for layer in model.modules()) else {}
