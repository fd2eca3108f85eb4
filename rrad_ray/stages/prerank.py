"""prerank: a cheap ranker orders the candidates; top-k and bottom-k stay (RRADistill, label generation, step 2).

Shard in, part out: an actor reads a shard of the input, orders it and writes its part, so rows never pass through the
driver, finished parts survive a kill, and every query comes out exactly once.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np

from rrad_ray import tables
from rrad_ray.config import PrerankConfig
from rrad_ray.errors import at_place
from rrad_ray.rankers.bi_encoder import BiEncoder, check_bi_encoder
from rrad_ray.rankers.chunker import Chunker, best_indices
from rrad_ray.rows import PRERANK, Candidates, PrerankOutput, by_source
from rrad_ray.runtime import cluster
from rrad_ray.tables import checkpoints, shards
from rrad_ray.tables.sampling import draw_hash
from rrad_ray.tables.shards import Shard


@tables.stage("prerank", PrerankOutput)
def run(cfg: PrerankConfig, out: tables.Output) -> None:
    """Write the short candidates. Raises `RradError` if `source` names scores that the input does not have."""
    every = shards.plan_shards(cfg.input, shards.MOST_ROWS, Candidates)
    standing = set(out.parts())
    source = "" if cfg.source else _source(cfg)
    out.note_versions(checkpoints.revision(source))
    options = {"cfg": cfg, "model": source, "out": out, "planned": every}
    cluster.each_part(cfg, out, PrerankPart, options, [shard.part for shard in every], standing, "parts", cfg.input)
    counts = _count(cfg, out, every) | shards.repeats(every)
    out.commit(max_quarantined=cfg.max_quarantined, lineage=_lineage(cfg), **counts)


def _lineage(cfg: PrerankConfig) -> tables.Lineage:
    """Return the input's lineage, with the pre-ranker where this stage has run one."""
    lineage = tables.lineage_of(cfg.input)
    if cfg.source or cfg.chunks.tokens:  # the endpoint's bi-encoders read texts whole
        return lineage
    first = lineage.first_stage or tables.FirstStageFacts(cfg.input)
    own: tables.EncoderFacts = {"model": cfg.model, "max_length": cfg.max_length}
    return dataclasses.replace(
        lineage, first_stage=dataclasses.replace(first, encoders={**first.encoders, PRERANK: own})
    )


def _source(cfg: PrerankConfig) -> str:
    """Return the pre-ranker's folder; raises `RradError` if it has fewer positions than `max_length`."""
    folder = checkpoints.resolve(cfg.model)
    with at_place(cfg.model, "name another model"):
        check_bi_encoder(folder, cfg.max_length)
    return folder


def _count(cfg: PrerankConfig, out: tables.Output, every: list[Shard]) -> dict[str, Any]:
    """Return rows and documents of the output; quarantine the input rows that are not in it."""
    rows = documents = 0
    for shard in every:
        kept = {row["query_id"]: len(row["doc_ids"]) for row in tables.read_part(out.uri, shard.part, Candidates)}
        rows, documents = rows + len(kept), documents + sum(kept.values())
        for row in shards.read_shard(cfg.input, shard, Candidates, out.quarantine):
            if row["query_id"] not in kept and row["split"] in cfg.splits:
                out.quarantine(row["query_id"], "no candidates: nothing to order", row["query"])
    return {"rows": rows, "candidates": documents, "seen": rows + len(out.quarantined)}


class PrerankPart:
    """An actor: the name of a part to that part of the output, ordered and cut."""

    def __init__(self, cfg: PrerankConfig, model: str, out: tables.Output, planned: list[Shard]) -> None:
        self.cfg, self.out = cfg, out
        self.planned = {shard.part: shard for shard in planned}
        self.encoder = BiEncoder(model, max_length=cfg.max_length, batch_tokens=cfg.batch_tokens) if model else None
        self.chunker = Chunker(self.encoder.model.tokenizer if self.encoder else None, cfg.chunks)

    def part(self, name: str) -> None:
        """Write one part of the output."""
        given = shards.read_shard(self.cfg.input, self.planned[name], Candidates)
        rows = [row for row in given if row["doc_ids"] and row["split"] in self.cfg.splits]
        scores = self._by_model(rows) if self.encoder else [self._by_source(row) for row in rows]
        self.out.write_part(
            name, [kept_indices(row, values, self.cfg) for row, values in zip(rows, scores, strict=True)]
        )

    def _by_source(self, row: dict[str, Any]) -> list[float]:
        if self.cfg.source not in row["sources"]:
            raise KeyError(f"no source '{self.cfg.source}' among {', '.join(row['sources'])}")
        return row["source_scores"][row["sources"].index(self.cfg.source)]

    def _by_model(self, rows: list[dict[str, Any]]) -> list[list[float]]:
        """Return the cosines, kept as source `prerank`, a document's being that of its best chunk; one that several
        queries of the part share is read once."""
        assert self.encoder is not None
        distinct = list(dict.fromkeys(text for row in rows for text in row["texts"]))
        split = self.chunker(distinct)
        chunks_of: dict[str, list[int]] = {text: [] for text in distinct}
        for number, owner in enumerate(split.owners):
            chunks_of[distinct[owner]].append(number)
        vectors = self.encoder.documents(split.texts)
        queries = self.encoder.queries([row["query"] for row in rows])
        scores = []
        for row, query in zip(rows, queries, strict=True):
            indices = [index for text in row["texts"] for index in chunks_of[text]]
            owners = [number for number, text in enumerate(row["texts"]) for _ in chunks_of[text]]
            cosines = (vectors[indices] @ query).tolist()
            best = best_indices(owners, cosines)
            values = [cosines[index] for index in best]
            if self.cfg.chunks.tokens:
                row["best_chunks"] = [split.spans[indices[index]] for index in best]
            columns = {**by_source(row), PRERANK: values}  # in place of those of a pre-ranker before it
            row["sources"], row["source_scores"] = list(columns), list(columns.values())
            scores.append(values)
        return scores


def kept_indices(row: dict[str, Any], scores: list[float], cfg: PrerankConfig) -> dict[str, Any]:
    """Return the row in the pre-ranker's order, with the top-k, the bottom-k and a random few between them."""
    order = sorted(range(len(scores)), key=lambda index: (-np.nan_to_num(scores[index], nan=-np.inf), index))
    if row["split"] not in cfg.keep_whole:
        order = _short(order, row["query_id"], cfg)

    def pick(values: list[Any]) -> list[Any]:
        return [values[index] for index in order]

    return {
        **row,
        "doc_ids": pick(row["doc_ids"]),
        "texts": pick(row["texts"]),
        "scores": pick(scores),
        "source_scores": [pick(values) for values in row["source_scores"]],
        "best_chunks": pick(row["best_chunks"]) if row.get("best_chunks") else [],
    }


def _short(order: list[int], query_id: str, cfg: PrerankConfig) -> list[int]:
    if len(order) <= cfg.top_k + cfg.bottom_k + cfg.random_k:
        return order
    top, rest = order[: cfg.top_k], order[cfg.top_k :]
    between, bottom = rest[: len(rest) - cfg.bottom_k], rest[len(rest) - cfg.bottom_k :]
    seed = int(draw_hash(cfg.seed, query_id)[:16], 16)
    some = sorted(random.Random(seed).sample(range(len(between)), min(cfg.random_k, len(between))))
    return [*top, *(between[index] for index in some), *bottom]
