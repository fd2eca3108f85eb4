"""RRA-GPT's token loss (Choi et al., 2024): a decoder student writes relevance label and reason after the pair.

The paper trains ranking and writing at once: rank loss on the state of the last prompt token, token loss on label and
reason. The answer follows that token and attention is causal, so one forward pass gives both, and the score is the
same with and without an answer. At inference nothing is written, unless `Explainer` is asked.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from rrad_ray.errors import InvalidInput
from rrad_ray.rankers import loading
from rrad_ray.rankers.ranker import Encoded, Ranker, in_order, shortened

RELEVANT = ("highly relevant", "relevant", "partly relevant")  # for the first, second and last third of the ranking

IRRELEVANT = "irrelevant"  # for a document that the LLM left out

# The output layer of a checkpoint where it is not the embeddings; only `Explainer` reads it. In a folder of its own,
# for vLLM loads all safetensors files beside the config. The other name is that of earlier versions.
LM_HEAD, OLD_LM_HEAD = "lm_head/model.safetensors", "lm_head.pt"

WRITES = "writes_reasons"  # key in the config of a checkpoint that has learnt to write

Project = Callable[[Tensor], Tensor]  # hidden states (T, D) to logits (T, V) over the vocabulary


def target_texts(row: Mapping[str, Any]) -> list[str]:
    """Return the target text of each document of a label row: its relevance, and below it the reason if any.

    The relevance names the third of the ranking, by target, that the document is in; equal targets share the best of
    their ranks. The ranking holds the documents that the LLM ranked; one that it left out is irrelevant. Words and
    rule are our reading: the paper says "relevance label".
    """
    ranked = [target for target, missing in zip(row["targets"], row["missing"], strict=True) if not missing]
    reasons = row["reasons"] or [""] * len(row["targets"])
    texts = []
    for target, missing, reason in zip(row["targets"], row["missing"], reasons, strict=True):
        rank = sum(other > target for other in ranked)
        label = IRRELEVANT if missing else RELEVANT[rank * len(RELEVANT) // len(ranked)]
        texts.append(f"{label}\n{' '.join(reason.split())}".strip())
    return texts


def encode(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Return the token ids of answers, each with the end-of-sequence token behind it, cut to `max_tokens`.

    An answer that is cut has no end-of-sequence token.
    """
    answers = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [[*ids, tokenizer.eos_token_id][:max_tokens] for ids in answers]


def joint(
    ranker: Ranker, project: Project, pairs: Encoded, targets: Sequence[Sequence[int]], tokens: int
) -> tuple[Tensor, Tensor]:
    """Return the scores (P,) of encoded pairs, and the mean cross-entropy (nats) of the target tokens behind them.

    The state of a pair's last token gives its score and predicts the first target token. Only states that predict a
    target token are projected to the vocabulary. Passes hold at most `tokens` padded tokens.
    """
    joined = []
    for pair, target in zip(pairs, targets, strict=True):
        ids = [*pair["input_ids"], *target[:-1]]  # the last target token predicts nothing
        joined.append({"input_ids": ids, "attention_mask": [1] * len(ids)})
    scores, losses = [], []
    for indices, chunk in ranker.passes(joined, tokens):
        states_PLD = ranker.model.base_model(**chunk, use_cache=False).last_hidden_state
        ends = [len(pairs[index]["input_ids"]) - 1 for index in indices]
        scored_PD = states_PLD[range(len(ends)), ends]
        scores.append((indices, ranker.model.score(scored_PD)[:, 0].float()))
        predicting = [(row, ends[row] + k) for row, index in enumerate(indices) for k in range(len(targets[index]))]
        rows_T, columns_T = torch.tensor(predicting, device=states_PLD.device).T
        wanted_T = torch.tensor([token for index in indices for token in targets[index]], device=states_PLD.device)
        logits_TV = project(states_PLD[rows_T, columns_T]).float()
        losses.append(F.cross_entropy(logits_TV, wanted_T, reduction="sum"))
    return in_order(scores), torch.stack(losses).sum() / sum(map(len, targets))


def lm_head(source: str) -> nn.Module | None:
    """Return the output layer of a causal LM in float32; None where it is tied to the embeddings.

    A student keeps the embeddings, but has no output layer of its own.
    """
    model = loading.load_whole(AutoModelForCausalLM, source, dtype=torch.float32, num_hidden_layers=1)
    head = model.get_output_embeddings()
    return None if head.weight is model.get_input_embeddings().weight else head


def projection(ranker: Ranker, head: nn.Module | None) -> Project:
    """Return the projection of hidden states to logits: `head`, or the ranker's embeddings where it is None."""
    return head or functools.partial(F.linear, weight=ranker.model.get_input_embeddings().weight)


class Explainer:
    """A decoder student that writes label and reason, token by token: far slower than scoring, so only on request."""

    def __init__(self, ranker: Ranker, head: nn.Module | None = None) -> None:
        self.ranker, self.project = ranker, projection(ranker, head)
        self.tokenizer = copy.deepcopy(ranker.tokenizer)  # its truncation is its own: `score` has another

    @classmethod
    def load(cls, folder: str, *, device: str = "cpu", dtype: str = "auto") -> Explainer:
        """Load a saved student from `folder`. Raises `ValueError` for one that has not learnt to write."""
        return cls.of(Ranker.load(folder, device=device, dtype=dtype), folder)

    @classmethod
    def of(cls, ranker: Ranker, folder: str) -> Explainer:
        """Return the explainer of a student that is loaded already, from `folder`.

        The student may score in another thread meanwhile. Raises `ValueError` as `load`.
        """
        if not getattr(ranker.model.config, WRITES, False):
            raise InvalidInput(f"{folder} was not trained to write", "train a decoder with generation.weight above 0")
        path, old = Path(folder, LM_HEAD), Path(folder, OLD_LM_HEAD)
        if path.is_file() or old.is_file():
            weights = load_file(path) if path.is_file() else torch.load(old, weights_only=True)
            size, width = weights["weight"].shape
            head = nn.Linear(width, size, bias="bias" in weights)
            head.load_state_dict(weights)
            return cls(ranker, head.to(device=ranker.model.device, dtype=ranker.model.dtype))
        return cls(ranker)

    @torch.inference_mode()
    def explain(self, query: str, text: str, max_tokens: int = 128) -> str:
        """Return label and reason for a document, up to `max_tokens` tokens: the likeliest token at each step.

        A pair that leaves no room for them among the model's positions is cut, of few positions to half of them.
        """
        tokenizer, model = self.tokenizer, self.ranker.model
        context = loading.positions(model) or self.ranker.max_length + max_tokens
        max_tokens = min(max_tokens, context // 2)
        most = min(self.ranker.max_length, context - max_tokens)
        (query,), (text,) = shortened(self.ranker, [query], [text])
        pair = tokenizer(query, text, truncation=True, max_length=most, split_special_tokens=True)
        unread, written, cache = pair["input_ids"], list[int](), None
        while len(written) < max_tokens:
            ids = torch.tensor([unread], device=model.device)
            out = model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
            token = int(self.project(out.last_hidden_state[:, -1]).argmax())
            if token in (tokenizer.eos_token_id, tokenizer.pad_token_id):
                break
            written.append(token)
            unread, cache = [token], out.past_key_values
        return tokenizer.decode(written, skip_special_tokens=True).strip()
