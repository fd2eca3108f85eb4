"""A causal LM that ranks by the likelihood of the query given a document."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from rrad_ray import prompts
from rrad_ray.config.template_files import load_template
from rrad_ray.config.templates import LikelihoodTemplate
from rrad_ray.rankers import loading
from rrad_ray.rankers.precision import dtype_of


class LikelihoodRanker(nn.Module):
    """A causal LM that scores a document by the likelihood of the query given it (Sachan et al., 2022).

    Runs the judge's `likelihood` task by transformers, without vLLM: for a machine without it, and as the reference
    for vLLM's scores. Documents are cut to `doc_tokens` tokens, queries to `query_tokens`, both to what the model
    takes. Raises `ValueError` for a folder that holds no whole causal LM.
    """

    def __init__(self, source: str, *, template: str, doc_tokens: int, query_tokens: int = 64, dtype: str = "auto"):
        super().__init__()
        chosen = dtype_of(dtype, config=loading.config_of(source))
        self.model = loading.load_whole(AutoModelForCausalLM, source, dtype=chosen).eval()
        self.tokenizer = loading.load_tokenizer(source, self.model)
        limit = loading.positions(self.model) or None
        pieces = load_template(LikelihoodTemplate, template).pieces
        self.plan = prompts.LikelihoodPlan(self.tokenizer, pieces, doc_tokens, query_tokens, limit)

    @torch.inference_mode()
    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return the mean log p(query token) given each text, in input order, in nats per token."""
        if not texts:
            return []
        spans = self.plan(query, texts)
        longest = max(len(span.ids) for span in spans)
        tail = len(spans[0].ids) - spans[0].start  # tokens of the query, equally many in each prompt
        ids = torch.zeros(len(spans), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, span in enumerate(spans):  # padded on the left, so that every row ends with the query
            ids[row, longest - len(span.ids) :] = torch.tensor(span.ids)
            mask[row, longest - len(span.ids) :] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=tail + 1)
        logprobs = out.logits[:, :-1].float().log_softmax(-1)
        return logprobs.gather(2, ids[:, -tail:, None])[:, :, 0].mean(1).tolist()
