"""A model in a replica's process: a student that scores and, if it has learnt to, writes reasons; bi-encoders."""

from __future__ import annotations

import contextlib
import copy
import math
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from rrad_ray import tables
from rrad_ray.config import ServeConfig
from rrad_ray.errors import RradError, at_place
from rrad_ray.patches import transformers_imports
from rrad_ray.rankers.chunker import Chunker, ChunkRanker
from rrad_ray.serving import winners
from rrad_ray.serving.requests import ScoringRequest
from rrad_ray.serving.scorer import Model, PairScorer, ScoreNotFinite
from rrad_ray.tables import checkpoint_cache, checkpoints

CGROUP = Path("/sys/fs/cgroup")  # of a container

WARM_UP = ("is the model ready", ["yes", "It has been loaded, and now it scores."])


def load_model(served: winners.ServedModel, cfg: ServeConfig) -> Model:
    """Return what is served, loaded and warm; raises as `LoadedModel` and `LoadedEncoder` do."""
    return LoadedModel(served, cfg) if served.student else LoadedFirstStage(served)


class LoadedModel:
    """A served student, loaded and warm, with the bi-encoders that it is fused with.

    Raises `RradError` if the backend does not serve it, its weights would not fit into the memory that is free (the
    system would end the replica, and with it the winner that it has) or its scores are no numbers,
    `winners.ScoreMismatch` if it no longer scores as it did when it won.
    """

    def __init__(self, served: winners.ServedModel, cfg: ServeConfig) -> None:
        with transformers_imports.lean():
            from rrad_ray.rankers.generation import Explainer
            from rrad_ray.rankers.packed_encoder import PackedEncoder
            from rrad_ray.rankers.ranker import Ranker, score_tokens

        folder, device = winners.local_folder(served), "cuda" if cfg.resources.get("GPU") else "cpu"
        _check_memory(served.checkpoint, folder)
        if cfg.backend == "compile":
            checkpoint_cache.keep_compiled_apart()
        with at_place(served.checkpoint, "set backend=torch"):
            self.ranker = Ranker.load(folder, device=device, dtype=cfg.precision, backend=cfg.backend)
            in_chunks = ChunkRanker(self.ranker, cfg.chunks)
        self.chunker = in_chunks.chunker if cfg.chunks.tokens else None
        self.served, self.name, self.tokens = served, served.student, score_tokens(device)
        # Threads that one batch leaves idle take parts of the next one.
        several = isinstance(self.ranker.backend, PackedEncoder) and self.ranker.backend.lanes > 1
        self.concurrency = 2 if several else 1
        self.version = uuid.uuid4().hex  # of the weights that were read: another time there may be others
        self.explainer = None
        with contextlib.suppress(ValueError):  # most models cannot write, and nobody may ever ask
            self.explainer = Explainer.of(self.ranker, folder)
        self.scorers: dict[str, PairScorer] = {self.name: self, **_encoders(served)}
        query, texts = WARM_UP
        if not all(map(math.isfinite, self.ranker.score(query, texts))):
            problem, remedy = "it gives scores that are not numbers", "train it again, or set precision=float32"
            raise RradError(served.checkpoint, problem, remedy)
        # int8 is allowed its loss: there it is the checkpoint that has to be the one that won.
        exact = in_chunks if cfg.precision != "int8" else ChunkRanker(Ranker.load(folder), cfg.chunks)
        winners.check_scores(served, exact.score)

    def encode(self, request: ScoringRequest, indices: Sequence[int]) -> list[Any]:
        """Tokenize the pairs of a request at these indices, each text cut to its `doc_tokens`."""
        texts = [request.texts[index] for index in indices]
        if 0 < request.doc_tokens < self.ranker.max_length:
            texts = self.ranker.cut(texts, request.doc_tokens)
        return self.ranker.encode([request.queries[index] for index in indices], texts)

    def score(self, pairs: list[Any]) -> list[float]:
        """Return the raw scores of tokenized pairs. Raises `ScoreNotFinite` for scores that are no numbers."""
        import torch

        with torch.inference_mode():
            scores = self.ranker.logits(pairs, self.tokens).tolist()
        if not all(map(math.isfinite, scores)):
            raise ScoreNotFinite("the model gave a score that is not a number")
        return scores


class LoadedFirstStage:
    """A first stage that is served because it has won: bi-encoders among its sources, no student."""

    explainer = None

    def __init__(self, served: winners.ServedModel) -> None:
        self.served, self.scorers = served, _encoders(served)


class LoadedEncoder:
    """The bi-encoder behind a source, loaded and warm: it gives texts the cosines that the first stage gave them.

    Raises `RradError` for one that cannot be loaded.
    """

    concurrency = 1
    chunker: Chunker | None = None  # it reads texts as the first stage did

    def __init__(self, name: str, facts: tables.EncoderFacts) -> None:
        from rrad_ray.rankers.bi_encoder import BiEncoder

        with at_place(facts["model"], "run retrieve and the stages after it with another model"):
            folder = checkpoints.resolve_served(facts["model"])
            _check_memory(facts["model"], folder)
            self.encoder = BiEncoder(folder, max_length=facts["max_length"])
        self.tokenizer = copy.deepcopy(self.encoder.model.tokenizer)  # `score` pads with its own, in another thread
        self.name, self.version = name, uuid.uuid4().hex
        query, texts = WARM_UP
        self.score(self.encode(ScoringRequest([query] * len(texts), texts), range(len(texts))))

    def encode(self, request: ScoringRequest, indices: Sequence[int]) -> list[Any]:
        """Return the pairs of a request at these indices, with the texts' tokens as far as they are read."""
        texts = [request.texts[index] for index in indices]
        tokens = self.tokenizer(texts, truncation=True, max_length=self.encoder.model.max_seq_length)
        queries = [request.queries[index] for index in indices]
        return [
            {"query": query, "text": text, "input_ids": ids}
            for query, text, ids in zip(queries, texts, tokens["input_ids"], strict=True)
        ]

    def score(self, pairs: list[Any]) -> list[float]:
        """Return the cosine of query and text of each pair."""
        queries = list(dict.fromkeys(pair["query"] for pair in pairs))
        row_of = dict(zip(queries, self.encoder.queries(queries), strict=True))
        documents = self.encoder.documents([pair["text"] for pair in pairs])
        return [float(document @ row_of[pair["query"]]) for document, pair in zip(documents, pairs, strict=True)]


def _check_memory(checkpoint: str, folder: str) -> None:
    """Raise `RradError` for weights of more bytes than are free: those of the files, or those of the shapes that the
    config names, which are there before any file is read."""
    from rrad_ray.rankers import loading

    stored = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
    with at_place(checkpoint, "give a whole checkpoint"):
        shaped = loading.least_bytes(folder)
    size, free = max(stored, shaped), free_memory()
    if size > free:
        problem = f"has weights of {size:,} bytes, and {free:,} bytes of memory are free"
        raise RradError(checkpoint, problem, "serve a smaller model, or give the replicas more memory")


def free_memory() -> int:
    """Return the bytes of memory that this process may still take: of the machine's, or of its container's."""
    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError, KeyError):  # of no container, or one without a limit ("max")
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(stat["inactive_file"]))  # what only caches files can be had
    return free


def _encoders(served: winners.ServedModel) -> dict[str, PairScorer]:
    """Load the bi-encoders of a served model, by source."""
    return {source: LoadedEncoder(source, facts) for source, facts in served.encoders.items()}
