"""RRA-GPT's other half (Choi et al., 2024): the student writes the relevance label and the reason after the pair.

The paper trains both at once: token loss on label and reason, rank loss on the state of the last prompt token. The
answer stands behind that token and attention is causal, so one forward pass gives both, and the score is the same
with and without it. At inference nothing is written, unless somebody asks (`Explainer`).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from rrad_ray.errors import InvalidInput
from rrad_ray.rankers.ranker import Encoded, Ranker, in_order

RELEVANT = ("highly relevant", "relevant", "partly relevant")  # the first, second and last third of the ranked ones

IRRELEVANT = "irrelevant"

HEAD = "lm_head.pt"  # beside a checkpoint whose embeddings are not its output layer; other software does not read it

WRITES = "writes_reasons"  # in the config of a checkpoint that has learnt it

Project = Callable[[Tensor], Tensor]  # hidden states (T, D) to logits (T, V)


def target_texts(row: Mapping[str, Any]) -> list[str]:
    """What the student is to write for each document of a label row: its relevance, and below it the reason if any.

    The relevance says in which third of the documents that the LLM ranked this one's place is, by target; equal
    targets share the best of their places. A document that the LLM left out is irrelevant. Words and rule are our
    reading: the paper says "relevance label".
    """
    ranked = [target for target, missing in zip(row["targets"], row["missing"], strict=True) if not missing]
    reasons = row["reasons"] or [""] * len(row["targets"])
    found = []
    for target, missing, reason in zip(row["targets"], row["missing"], reasons, strict=True):
        place = sum(other > target for other in ranked)
        label = IRRELEVANT if missing else RELEVANT[place * len(RELEVANT) // len(ranked)]
        found.append(f"{label}\n{' '.join(reason.split())}".strip())
    return found


def encode(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token ids of answers, each with the end-of-sequence token, cut to `max_tokens`: a cut answer has no end."""
    found = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [[*ids, tokenizer.eos_token_id][:max_tokens] for ids in found]


def joint(
    ranker: Ranker, project: Project, pairs: Encoded, targets: Sequence[Sequence[int]], tokens: int
) -> tuple[Tensor, Tensor]:
    """Scores (P,) of encoded pairs, and the mean cross-entropy (nats) of the target tokens that follow them.

    The state of a pair's last token gives its score and predicts the first target token; only the target's tokens are
    projected to the vocabulary. Passes hold at most `tokens` padded tokens.
    """
    joined = []
    for pair, target in zip(pairs, targets, strict=True):
        ids = [*pair["input_ids"], *target[:-1]]  # nothing follows the last one
        joined.append({"input_ids": ids, "attention_mask": [1] * len(ids)})
    scores, losses = [], []
    for places, chunk in ranker.passes(joined, tokens):
        states_PLD = ranker.model.base_model(**chunk, use_cache=False).last_hidden_state
        ends = [len(pairs[place]["input_ids"]) - 1 for place in places]
        scored_PD = states_PLD[range(len(ends)), ends]
        scores.append((places, ranker.model.score(scored_PD)[:, 0].float()))
        spots = [(row, ends[row] + k) for row, place in enumerate(places) for k in range(len(targets[place]))]
        rows_T, columns_T = torch.tensor(spots, device=states_PLD.device).T
        wanted_T = torch.tensor([token for place in places for token in targets[place]], device=states_PLD.device)
        logits_TV = project(states_PLD[rows_T, columns_T]).float()
        losses.append(F.cross_entropy(logits_TV, wanted_T, reduction="sum"))
    return in_order(scores), torch.stack(losses).sum() / sum(map(len, targets))


def lm_head(source: str) -> nn.Module | None:
    """The output layer of a causal LM in float32; None where its embeddings are that layer, which a student keeps."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, num_hidden_layers=1)
    head = model.get_output_embeddings()
    return None if head.weight is model.get_input_embeddings().weight else head


def projection(ranker: Ranker, head: nn.Module | None) -> Project:
    """Hidden states to logits: by the head, or by the embeddings where there is none."""
    return head or functools.partial(F.linear, weight=ranker.model.get_input_embeddings().weight)


class Explainer:
    """A decoder student that writes, one token after the other: far slower than a score, and only for who asks."""

    def __init__(self, ranker: Ranker, head: nn.Module | None = None) -> None:
        self.ranker, self.project = ranker, projection(ranker, head)

    @classmethod
    def load(cls, folder: str, *, device: str = "cpu", dtype: str = "auto") -> Explainer:
        """A saved student. Raises `ValueError` for one that has not learnt to write."""
        return cls.of(Ranker.load(folder, device=device, dtype=dtype), folder)

    @classmethod
    def of(cls, ranker: Ranker, folder: str) -> Explainer:
        """The same of a student that is loaded already, from this folder; it may score in another thread."""
        if not getattr(ranker.model.config, WRITES, False):
            raise InvalidInput(f"{folder} cannot write", "train a decoder with generation.weight above 0")
        # Two threads cannot use one fast tokenizer.
        ranker = Ranker(ranker.model, copy.deepcopy(ranker.tokenizer), ranker.max_length)
        file = Path(folder) / HEAD
        if file.is_file():
            weights = torch.load(file, weights_only=True)
            size, width = weights["weight"].shape
            head = nn.Linear(width, size, bias="bias" in weights)
            head.load_state_dict(weights)
            return cls(ranker, head.to(device=ranker.model.device, dtype=ranker.model.dtype))
        return cls(ranker)

    @torch.inference_mode()
    def explain(self, query: str, text: str, max_tokens: int = 128) -> str:
        """Label and reason for a document, the likeliest token at each step."""
        tokenizer, model = self.ranker.tokenizer, self.ranker.model
        (pair,) = self.ranker.encode([query], [text])
        read, written, cache = pair["input_ids"], list[int](), None
        while len(written) < max_tokens:
            ids = torch.tensor([read], device=model.device)
            out = model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
            token = int(self.project(out.last_hidden_state[:, -1]).argmax())
            if token in (tokenizer.eos_token_id, tokenizer.pad_token_id):
                break
            written.append(token)
            read, cache = [token], out.past_key_values
        return tokenizer.decode(written, skip_special_tokens=True).strip()
