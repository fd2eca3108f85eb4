"""The bi-encoder that embeds queries and documents in the first stage and in the pre-ranker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from rrad_ray.rankers import loading
from rrad_ray.rankers.precision import dtype_of


class BiEncoder:
    """A sentence-transformers bi-encoder, on the GPU where there is one.

    Texts are cut to `max_length` tokens; a batch holds at most `batch_tokens` padded tokens, but one text at least.
    `size` is the dimension of the vectors. Raises `ValueError` for a model that lacks weights or its tokenizer, and
    for one with fewer positions than `max_length`.
    """

    def __init__(self, source: str, *, max_length: int = 128, batch_tokens: int = 8192, dtype: str = "auto") -> None:
        from sentence_transformers import SentenceTransformer

        check_bi_encoder(source, max_length)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # The checkpoint's own files may ask for pickles that run code, name code, or a folder to write weights to.
        safe = {"weights_only": True, "trust_remote_code": False, "device_map": None, "offload_folder": None}
        options: dict[str, Any] = {"model_kwargs": {**safe, "dtype": dtype_of(dtype, device)}}
        self.model = SentenceTransformer(source, device=device, trust_remote_code=False, **options)
        if (model := getattr(self.model[0], "auto_model", None)) is not None:
            loading.check_positions(model, max_length)
            options = {"may_lack": loading.pooler, "device_map": "meta"}
            loading.load_whole(type(model), model.name_or_path, **options)
            loading.check_vocabulary(self.model.tokenizer, model, model.name_or_path)
        self.model.max_seq_length = max_length
        self.batch_size = max(1, batch_tokens // max_length)
        self.size = int(self.model.get_embedding_dimension() or 0)

    def queries(self, texts: Sequence[str]) -> Any:
        """Return the unit vectors (T, D) of queries, float32 NumPy."""
        return self._run(self.model.encode_query, texts)

    def documents(self, texts: Sequence[str]) -> Any:
        """Return the unit vectors (T, D) of documents, float32 NumPy."""
        return self._run(self.model.encode_document, texts)

    def _run(self, encode: Any, texts: Sequence[str]) -> Any:
        options = {"batch_size": self.batch_size, "normalize_embeddings": True, "show_progress_bar": False}
        return encode(list(texts), **options)


def check_bi_encoder(folder: str, max_length: int) -> None:
    """Raise `ValueError`, before an actor loads it, for fewer positions than `max_length`, so small a
    `max_length` that nothing of a text is read, or another's tokenizer."""
    if os.path.isfile(os.path.join(folder, "config.json")):  # elsewhere in some folders of sentence-transformers
        model = loading.without_weights(folder)
        loading.check_positions(model, max_length)
        loading.check_room(loading.load_tokenizer(folder, model), max_length, pair=False)
