"""A model in a replica's process: a student that scores and, if it has learnt to, writes reasons."""

from __future__ import annotations

import contextlib
import math
import uuid
from collections.abc import Sequence
from typing import Any

from rrad_ray.config import ServeConfig
from rrad_ray.errors import RradError, at_place
from rrad_ray.serving import winners
from rrad_ray.serving.requests import ScoringRequest
from rrad_ray.serving.scorer import ScoreNotFinite

WARM_UP = ("is the model ready", ["yes", "It has been loaded, and now it scores."])


class LoadedModel:
    """A served model, loaded and warm.

    Raises `RradError` if the backend does not serve it or its scores are no numbers, `winners.ScoreMismatch` if it no
    longer scores as it did when it won.
    """

    def __init__(self, served: winners.ServedModel, cfg: ServeConfig) -> None:
        from rrad_ray.rankers.generation import Explainer
        from rrad_ray.rankers.packed_encoder import PackedEncoder
        from rrad_ray.rankers.ranker import Ranker, score_tokens

        folder, device = winners.local_folder(served), "cuda" if cfg.resources.get("GPU") else "cpu"
        with at_place(served.checkpoint, "set backend=torch"):
            self.ranker = Ranker.load(folder, device=device, dtype=cfg.precision, backend=cfg.backend)
        self.served, self.tokens = served, score_tokens(device)
        # Threads that one batch leaves idle take parts of the next one.
        several = isinstance(self.ranker.backend, PackedEncoder) and self.ranker.backend.lanes > 1
        self.concurrency = 2 if several else 1
        self.version = uuid.uuid4().hex  # of the weights that were read: another time there may be others
        self.explainer = None
        with contextlib.suppress(ValueError):  # most models cannot write, and nobody may ever ask
            self.explainer = Explainer.of(self.ranker, folder)
        query, texts = WARM_UP
        if not all(map(math.isfinite, self.ranker.score(query, texts))):
            problem, remedy = "it gives scores that are not numbers", "train it again, or set precision=float32"
            raise RradError(served.checkpoint, problem, remedy)
        # int8 is allowed its loss: there it is the checkpoint that has to be the one that won.
        winners.check_scores(served, self.ranker.score if cfg.precision != "int8" else Ranker.load(folder).score)

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
