"""The last layer computes the first token's state only, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from rrad_ray.patches import transformers_cls_only

SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 1}
SIZES |= {"intermediate_size": 24, "max_position_embeddings": 20, "hidden_dropout_prob": 0.0}
SIZES |= {"attention_probs_dropout_prob": 0.0, "initializer_range": 0.5, "pad_token_id": 0}


def model_of(config: type, attention: str = "eager") -> Any:
    torch.manual_seed(3)
    return AutoModelForSequenceClassification.from_config(config(**SIZES), attn_implementation=attention).train()


def batch(padded: bool = True) -> dict[str, Tensor]:
    mask = torch.ones(3, 9, dtype=torch.long)
    if padded:
        mask[1, 4:] = mask[2, 7:] = 0
    return {"input_ids": torch.arange(1, 28).view(3, 9) * mask, "attention_mask": mask}


def scores_and_gradients(model: Any, padded: bool) -> dict[str, Tensor]:
    model.zero_grad()
    scores = model(**batch(padded)).logits[:, 0]
    scores.pow(2).sum().backward()
    return {"scores": scores.detach(), **{name: weight.grad.clone() for name, weight in model.named_parameters()}}


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "full"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("config", [BertConfig, RobertaConfig, XLMRobertaConfig])
def test_scores_and_gradients_are_those_of_the_whole_layer(config: type, attention: str, padded: bool) -> None:
    model = model_of(config, attention)
    expected = scores_and_gradients(model, padded)
    transformers_cls_only.with_first_token_layer(model)
    assert model.base_model(**batch(padded)).last_hidden_state.shape == (3, 1, 16)
    found = scores_and_gradients(model, padded)
    assert expected["scores"].std() > 0.01
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("config", [BertConfig, RobertaConfig, XLMRobertaConfig])
def test_a_call_for_all_tokens_gets_every_tokens_state_and_no_other_call_does(config: type, attention: str) -> None:
    model = model_of(config, attention)
    expected = model(**batch(), output_hidden_states=True)
    transformers_cls_only.with_first_token_layer(model)
    for_all_tokens = transformers_cls_only.for_all_tokens(model)
    states = model.base_model(**batch(), **for_all_tokens).last_hidden_state
    torch.testing.assert_close(states, expected.hidden_states[-1])
    torch.testing.assert_close(model(**batch(), **for_all_tokens).logits, expected.logits)
    assert model.base_model(**batch()).last_hidden_state.shape == (3, 1, 16)


def test_the_weights_keep_their_names(tmp_path: Path) -> None:
    model = model_of(BertConfig).eval()
    expected, names = model(**batch()).logits, list(model.state_dict())
    transformers_cls_only.with_first_token_layer(model).save_pretrained(tmp_path)
    assert list(model.state_dict()) == names
    read = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(read(**batch()).logits, expected)


def test_an_encoder_of_another_kind_and_a_causal_one_stay_as_they_are() -> None:
    sizes = {"vocab_size": 50, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "num_labels": 1}
    for config in (DistilBertConfig(**sizes), BertConfig(**SIZES, is_decoder=True)):
        model = AutoModelForSequenceClassification.from_config(config)
        transformers_cls_only.with_first_token_layer(model)
        assert transformers_cls_only.for_all_tokens(model) == {}
        assert model.base_model(**batch()).last_hidden_state.shape == (3, 9, 16)


def test_dropout_falls_on_the_attention_too() -> None:
    model = model_of(BertConfig)
    transformers_cls_only.with_first_token_layer(model)
    attention = model.bert.encoder.layer[-1].attention.self
    attention.dropout.p = 0.5
    with torch.no_grad():
        assert not torch.equal(model(**batch()).logits, model(**batch()).logits)
        model.eval()
        assert torch.equal(model(**batch()).logits, model(**batch()).logits)
