"""Rankers: torch modules that score documents for a query. Offline evaluation and the endpoint call the same `score`.

A student is a plain Hugging Face sequence-classification checkpoint with one output. How query and document are
joined is part of its tokenizer (`tokenizer(query, document)`), for the decoder too, so that other software
(transformers, sentence-transformers' `CrossEncoder`, vLLM `/score`, TEI) scores it the same without our code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import normalizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BatchEncoding,
    PreTrainedTokenizerFast,
)

from rrad_ray import adapters, backends, causal, first, prompts

Encoded = list[dict[str, list[int]]]
PAD = "<|pad|>"


def best_dtype(device: str = "cpu") -> torch.dtype:
    """bfloat16 where the hardware multiplies it (CUDA; CPUs with AMX or AVX512-BF16), float32 elsewhere."""
    if device.startswith("cuda"):
        return torch.bfloat16
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    fast = any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return torch.bfloat16 if fast else torch.float32


def dtype_of(name: str, device: str = "cpu") -> torch.dtype:
    """`auto`, `bfloat16` or `float32` as a torch dtype."""
    return best_dtype(device) if name == "auto" else getattr(torch, name)


# Passes are as long as a multiple of it: oneDNN makes and keeps kernels for each shape that it meets, 650 MiB of them
# within 25 steps of the demo's student, and GPUs multiply such shapes faster.
STEP = 16


def score_tokens(device: str) -> int:
    """Tokens of a forward pass when scoring, padding included: enough to keep the device busy."""
    return 4096 if device == "cpu" else 65536


def train_tokens(device: str) -> int:
    """Tokens of a forward pass within a training step, which keeps what the backward pass needs."""
    return 2048 if device == "cpu" else 16384


def write_checkpoint(
    folder: str | Path, model: Any, tokenizer: Any, fine: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """A plain Hugging Face checkpoint folder; adapters are merged. `fine`: finer copies of the model's parameters, by
    name."""
    if adapters.attached(model):
        model, fine = adapters.merged(model, fine), {}
    every = dict(model.named_parameters(remove_duplicate=False))
    tied = every.keys() - dict(model.named_parameters()).keys()  # written once; loading ties them again
    weights = {
        name: fine.get(name, tensor).detach().to(dtype).cpu()
        for name, tensor in model.state_dict().items()
        if name not in tied
    }
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)
    config = Path(folder) / "config.json"
    content = json.loads(config.read_text()) | {"dtype": str(dtype).removeprefix("torch.")}
    config.write_text(json.dumps(content, indent=2) + "\n")


def check_tokenizer(tokenizer: Any, kind: str) -> None:
    """Raises `ValueError` for a tokenizer with which a student cannot tell query and document apart, or a decoder
    where the pair ends."""
    if kind == "decoder":
        causal.end_of(tokenizer)
    elif not tokenizer.num_special_tokens_to_add(pair=True):
        found = f"the tokenizer of {tokenizer.name_or_path or 'this model'} puts nothing between query and document"
        raise ValueError(f"{found} ([SEP] or the like); choose an encoder whose tokenizer does, or kind=decoder")


class Ranker(nn.Module):
    """A student: one score for a query and a document.

    Encoder: RRA-BERT at inference, a cross-encoder with a score from `[CLS]`. Decoder: the ranking layer, a linear
    score from the hidden state of the last token.
    """

    def __init__(self, model: Any, tokenizer: Any, max_length: int) -> None:
        super().__init__()
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length
        self.backend: backends.Scorer | None = None  # what scores in the model's place, once it is loaded to score
        first.only(model)

    # ---- making and keeping ----

    @classmethod
    def load(cls, folder: str, *, device: str = "cpu", dtype: str = "auto", backend: str = "torch") -> Ranker:
        """A saved student, to score with. `dtype`: `auto`, `bfloat16`, `float32`, or `int8` with backend `onnx`; its
        `auto` is float32.

        Raises `ValueError` if the backend's library is not installed, or does not serve or compile such a model.
        """
        tokenizer = AutoTokenizer.from_pretrained(folder)
        own = dtype_of(dtype, device) if backend in ("torch", "compile") else torch.float32
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=own).to(device)
        ranker = cls(model, tokenizer, int(tokenizer.model_max_length)).eval()
        if dtype == "auto":
            dtype = "float32" if backend == "onnx" else str(dtype_of(dtype, device)).removeprefix("torch.")
        ranker.backend = backends.make(ranker, backend, dtype)
        return ranker

    @classmethod
    def encoder(cls, source: str, *, max_length: int, layers: int = 0) -> Ranker:
        """A fresh encoder student on a pretrained encoder; a head of its own is drawn at random.

        Raises `ValueError` as `check_tokenizer`. Without a pad token it gets the one that its model names, or a new
        one: batches need it, and attention hides it.
        """
        tokenizer = AutoTokenizer.from_pretrained(source)
        check_tokenizer(tokenizer, "encoder")
        options = {"num_hidden_layers": layers} if layers else {}
        model = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=1, dtype=torch.float32, **options
        )
        if tokenizer.pad_token is None and model.config.pad_token_id is not None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.config.pad_token_id)
        elif tokenizer.pad_token is None:
            _add_pad(model, tokenizer)
        return cls._prepare(model, tokenizer, max_length)

    @classmethod
    def decoder(cls, source: str, *, max_length: int, layers: int = 0) -> Ranker:
        """A fresh decoder student on the first layers of a causal LM, with a ranking layer on the last token.

        DisRanker appends the end-of-sequence token and scores its state; RRA-GPT reads the last prompt token. Here
        the last prompt token *is* an end-of-sequence token. It must not double as padding, or libraries differ
        about which token is the last one: the checkpoint gets a pad token of its own. A decoder student, as the
        source, has all this already. Raises `ValueError` for a tokenizer without an end-of-sequence token.
        """
        tokenizer = AutoTokenizer.from_pretrained(source)
        check_tokenizer(tokenizer, "decoder")
        options = {"num_hidden_layers": layers} if layers else {}
        model = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=1, dtype=torch.float32, **options
        )
        if tokenizer.pad_token == PAD:
            return cls._prepare(model, tokenizer, max_length)
        _add_pad(model, tokenizer)
        return cls._prepare(model, _with_pair_template(tokenizer), max_length)

    @classmethod
    def _prepare(cls, model: Any, tokenizer: Any, max_length: int) -> Ranker:
        tokenizer.model_max_length = max_length
        # sentence-transformers puts a sigmoid on a single output unless the checkpoint says otherwise.
        model.config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
        return cls(model, tokenizer, max_length)

    def save(self, folder: str | Path, exact: Mapping[str, Tensor] | None = None) -> None:
        """A plain Hugging Face checkpoint folder, float32. `exact`: finer copies of this module's parameters."""
        fine = {name.removeprefix("model."): tensor for name, tensor in (exact or {}).items()}
        write_checkpoint(folder, self.model, self.tokenizer, fine, torch.float32)

    @property
    def parameters_count(self) -> int:
        return sum(weight.numel() for weight in self.model.parameters())

    # ---- scoring ----

    def tokenize(self, queries: Sequence[str], texts: Sequence[str]) -> BatchEncoding:
        """Pairs as the tokenizer encodes them, cut to `max_length` (the longer of the two first)."""
        return self.tokenizer(list(queries), list(texts), truncation=True, max_length=self.max_length)

    def encode(self, queries: Sequence[str], texts: Sequence[str]) -> Encoded:
        """What the model takes of each pair: token ids and their like."""
        return one_by_one(self.tokenize(queries, texts))

    def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
        """Each text up to the end of its token number `tokens`."""
        found = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            truncation=True,
            max_length=tokens,
            return_offsets_mapping=True,
        )
        ends = [offsets[-1][1] if offsets else 0 for offsets in found["offset_mapping"]]
        return [text[:end] for text, end in zip(texts, ends, strict=True)]

    def cuts(self, pairs: Encoded, tokens: int) -> Iterator[list[int]]:
        """The places of encoded pairs, in passes of at most `tokens` padded tokens of like length."""
        by_length = sorted(range(len(pairs)), key=lambda index: len(pairs[index]["input_ids"]))
        done = 0
        while done < len(by_length):
            size = 1
            while done + size < len(by_length):
                if (size + 1) * self._length(pairs[by_length[done + size]]) > tokens:
                    break
                size += 1
            yield by_length[done : done + size]
            done += size

    def passes(self, pairs: Encoded, tokens: int) -> Iterator[tuple[list[int], BatchEncoding]]:
        """Encoded pairs for the model, in passes as `cuts` makes them, each with the places of its pairs."""
        for places in self.cuts(pairs, tokens):
            yield places, self.padded([pairs[place] for place in places])

    def padded(self, pairs: Encoded) -> BatchEncoding:
        """One pass: encoded pairs as tensors (P, L) where the model is."""
        length = max(map(self._length, pairs))
        found = self.tokenizer.pad(list(pairs), padding="max_length", max_length=length, return_tensors="pt")
        return found.to(self.model.device)

    def _length(self, pair: Mapping[str, Sequence[int]]) -> int:
        """Of a pass whose longest pair this is."""
        length = len(pair["input_ids"])
        return max(length, min(self.max_length, length + -length % STEP))

    def logits(self, pairs: Encoded, tokens: int) -> Tensor:
        """Scores (P,) of encoded pairs in float32, in passes of at most `tokens` padded tokens; by the backend where
        no gradient is asked for."""
        if self.backend is not None and not torch.is_grad_enabled():
            return self.backend(pairs, tokens)
        return self.in_passes(pairs, tokens, lambda chunk: self.model(**chunk).logits)

    def in_passes(self, pairs: Encoded, tokens: int, run: Callable[[BatchEncoding], Tensor]) -> Tensor:
        """Scores (P,) in float32 by `run`, which gives those of one pass (P, 1)."""
        return in_order([(places, run(chunk)[:, 0].float()) for places, chunk in self.passes(pairs, tokens)])

    def forward(self, pairs: Encoded, mask_BN: Tensor, tokens: int) -> Tensor:
        """scores_BN (B queries x N slots) of the pairs that fill the true slots of `mask_BN`, row by row."""
        return spread(self.logits(pairs, tokens), mask_BN)

    @torch.inference_mode()
    def score_pairs(self, queries: Sequence[str], texts: Sequence[str]) -> list[float]:
        """Scores of (query, text) pairs, in input order; pairs of several queries may share a pass."""
        if not texts:
            return []
        return self.logits(self.encode(queries, texts), score_tokens(self.model.device.type)).tolist()

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Scores of one query's documents, in input order; evaluate and serve call this."""
        return self.score_pairs([query] * len(texts), texts)


def one_by_one(found: BatchEncoding) -> Encoded:
    """The same, by pair."""
    return [{key: found[key][row] for key in found} for row in range(len(found["input_ids"]))]


def in_order(found: Sequence[tuple[Sequence[int], Tensor]]) -> Tensor:
    """Values (P,) by place, from those of each pass."""
    places = torch.tensor([place for some, _ in found for place in some])
    return torch.cat([values for _, values in found])[torch.argsort(places).to(found[0][1].device)]


def spread(values_P: Tensor, mask_BN: Tensor) -> Tensor:
    """Values in the true slots of a mask, row by row; 0 in the others."""
    mask_BN = mask_BN.to(values_P.device)
    return torch.zeros(mask_BN.shape, device=values_P.device).masked_scatter(mask_BN, values_P)


def _add_pad(model: Any, tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"pad_token": PAD})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id


def _with_pair_template(tokenizer: Any) -> Any:
    """A tokenizer that writes `Query: ...\\nDocument: ...<eos>` for `(query, document)`, by its saved files alone.

    A plain one: a class such as Qwen2Tokenizer would set its own normalizer when loaded, and sentence-transformers
    would wrap each pair in a chat template.
    """
    pieces = dict(zip(("[QUERY]", "[DOCUMENT]"), prompts.PAIR))
    special: list[Any] = [
        {"id": name, "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)}
        for name, text in pieces.items()
        for ids in [tokenizer(text, add_special_tokens=False)["input_ids"]]
    ]
    end, backend = tokenizer.eos_token, tokenizer.backend_tokenizer
    special.append((end, tokenizer.eos_token_id))
    backend.post_processor = TemplateProcessing(
        single=f"$A {end}", pair=f"[QUERY] $A [DOCUMENT]:1 $B:1 {end}:1", special_tokens=special
    )
    space = normalizers.Prepend(" ")  # `Query: how`, not `Query:how`
    backend.normalizer = normalizers.Sequence([backend.normalizer, space]) if backend.normalizer else space
    names = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="right", model_input_names=inputs, **names)


class BiEncoder:
    """A sentence-transformers bi-encoder: the dense half of the first stage, and the pre-ranker."""

    def __init__(self, source: str, *, max_length: int = 128, batch_tokens: int = 8192, dtype: str = "auto") -> None:
        from sentence_transformers import SentenceTransformer

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = SentenceTransformer(source, device=device, model_kwargs={"dtype": dtype_of(dtype, device)})
        self.model.max_seq_length = max_length
        self.batch_size = max(1, batch_tokens // max_length)
        self.size = int(self.model.get_embedding_dimension() or 0)

    def queries(self, texts: Sequence[str]) -> Any:
        """Unit vectors (T, D), float32 NumPy."""
        return self._run(self.model.encode_query, texts)

    def documents(self, texts: Sequence[str]) -> Any:
        """Unit vectors (T, D), float32 NumPy."""
        return self._run(self.model.encode_document, texts)

    def _run(self, encode: Any, texts: Sequence[str]) -> Any:
        options = {"batch_size": self.batch_size, "normalize_embeddings": True, "show_progress_bar": False}
        return encode(list(texts), **options)


class LikelihoodRanker(nn.Module):
    """Query likelihood (Sachan et al., 2022) of a causal LM by transformers: the judge's `likelihood` task without
    vLLM, for a bare machine and to hold vLLM's scores against."""

    def __init__(self, source: str, *, template: str, doc_tokens: int, query_tokens: int = 64, dtype: str = "auto"):
        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype_of(dtype)).eval()
        self.plan = prompts.LikelihoodPlan(self.tokenizer, template, doc_tokens, query_tokens)

    @torch.inference_mode()
    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Mean log p(query token) given each text, in input order, nats per token."""
        if not texts:
            return []
        spans = self.plan(query, texts)
        longest = max(len(span.ids) for span in spans)
        tail = len(spans[0].ids) - spans[0].start  # the query's tokens: the same number in each prompt
        ids = torch.zeros(len(spans), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, span in enumerate(spans):  # padded on the left, so that the query stands at the end of every row
            ids[row, longest - len(span.ids) :] = torch.tensor(span.ids)
            mask[row, longest - len(span.ids) :] = 1
        places = (mask.cumsum(1) - 1).clamp(min=0)
        out = self.model(input_ids=ids, attention_mask=mask, position_ids=places, logits_to_keep=tail + 1)
        logprobs = out.logits[:, :-1].float().log_softmax(-1)
        return logprobs.gather(2, ids[:, -tail:, None])[:, :, 0].mean(1).tolist()
