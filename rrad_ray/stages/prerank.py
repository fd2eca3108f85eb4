"""prerank: a cheap ranker orders the candidates; top-k and bottom-k stay (RRADistill, label generation, step 2).

Shard in, part out: an actor reads a shard of the input, orders it and writes its part, so rows never pass through the
driver, finished parts survive a kill, and every query comes out exactly once. With `student` and `pick` it makes the
candidates of a second round: a student's own, of the queries where it disagrees most with the first stage.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from rrad_ray import tables
from rrad_ray.config import PrerankConfig
from rrad_ray.errors import RradError, at_place
from rrad_ray.labelling.picking import picked_indices, rank_disagreement, scores_by
from rrad_ray.languages.scripts import word_count
from rrad_ray.progress import say
from rrad_ray.rankers import loading
from rrad_ray.rankers.bi_encoder import BiEncoder, check_bi_encoder
from rrad_ray.rankers.chunker import Chunker, ChunkRanker, best_indices
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.rows import MEASURED, PRERANK, Candidates, PrerankOutput, Row, by_source, check_same_query
from rrad_ray.runtime import cluster
from rrad_ray.tables import checkpoints, shards
from rrad_ray.tables.sampling import draw_hash
from rrad_ray.tables.shards import Shard


def _inputs(cfg: PrerankConfig) -> dict[str, str]:
    read = {"input": cfg.input, "student": checkpoints.input_of(cfg.student) if cfg.student else ""}
    if not cfg.student and not cfg.source:
        read["model"] = checkpoints.input_of(cfg.model)
    return read | {f"pick.without.{number}": uri for number, uri in enumerate(cfg.pick.without)}


@tables.stage("prerank", PrerankOutput, _inputs)
def run(cfg: PrerankConfig, out: tables.Output) -> None:
    """Write the short candidates. Raises `RradError` if `source` names scores that the input does not have, and for a
    model or a student that cannot be loaded."""
    every = shards.plan_shards(cfg.input, shards.MOST_ROWS, Candidates)
    standing = set(out.parts())
    source = "" if cfg.source else _source(cfg)
    out.note_versions(checkpoints.revision(source))
    options = {"cfg": cfg, "model": source, "out": out, "planned": every}
    cluster.each_part(cfg, out, PrerankPart, options, [shard.part for shard in every], standing, "parts", cfg.input)
    counts = _count(cfg, out, every) | shards.repeats(every)
    planned = [shard.part for shard in every]
    out.commit(max_quarantined=cfg.max_quarantined, lineage=_lineage(cfg), planned=planned, **counts)


def _lineage(cfg: PrerankConfig) -> tables.Lineage:
    """Return the input's lineage, with the pre-ranker where this stage has run one, in place of one before it."""
    lineage = tables.lineage_of(cfg.input)
    if cfg.source:
        return lineage
    first = lineage.first_stage or tables.FirstStageFacts(cfg.input)
    encoders = {source: facts for source, facts in first.encoders.items() if source != PRERANK}
    if not cfg.student and not cfg.chunks.tokens:  # the endpoint's bi-encoders read texts whole
        encoders[PRERANK] = {"model": cfg.model, "max_length": cfg.max_length}
    return dataclasses.replace(lineage, first_stage=dataclasses.replace(first, encoders=encoders))


def _source(cfg: PrerankConfig) -> str:
    """Return the folder of the pre-ranker or the student.

    Raises `RradError` for a pre-ranker that has fewer positions than `max_length`, and for a student that is none.
    """
    folder = checkpoints.resolve(cfg.student or cfg.model)
    with at_place(cfg.student or cfg.model, "name another model"):
        if cfg.student:
            loading.check_ranker(folder)
        else:
            check_bi_encoder(folder, cfg.max_length)
    return folder


def _count(cfg: PrerankConfig, out: tables.Output, every: list[Shard]) -> dict[str, Any]:
    """Return rows and documents of the output, and the queries that are left out by `splits` and `pick`; quarantine
    the other input rows that are not in it."""
    rows = documents = left_out = 0
    for shard in every:
        kept = {row["query_id"]: len(row["doc_ids"]) for row in tables.read_part(out.uri, shard.part, Candidates)}
        rows, documents = rows + len(kept), documents + sum(kept.values())
        for row in shards.read_shard(cfg.input, shard, Candidates, out.quarantine):
            if row["query_id"] in kept:
                continue
            if row["doc_ids"] or row["split"] not in cfg.splits:
                left_out += 1
            else:
                out.quarantine(row["query_id"], "no candidates: nothing to order", row["query"])
    if left_out:
        say(f"{rows:,} queries stay, and {left_out:,} are left out by splits and pick")
    seen = rows + left_out + len(out.quarantined)
    return {"rows": rows, "candidates": documents, "left_out": left_out, "seen": seen}


def _queries(uri: str) -> Iterator[Row]:
    """Yield query id and text of a finished table's rows."""
    for name in tables.finished_parts(uri):
        yield from tables.read_columns(uri, name, ["query_id", "query"]).to_pylist()


class PrerankPart:
    """An actor that orders and cuts a part, given its name, and writes it."""

    def __init__(self, cfg: PrerankConfig, model: str, out: tables.Output, planned: list[Shard]) -> None:
        """`model`: the folder of the bi-encoder or the student; empty where a source orders."""
        self.cfg, self.out = cfg, out
        self.planned = {shard.part: shard for shard in planned}
        self.student = ChunkRanker(Ranker.load(model), cfg.chunks) if cfg.student else None
        tokens: Any = {"max_length": cfg.max_length, "batch_tokens": cfg.batch_tokens}
        self.encoder = BiEncoder(model, **tokens) if model and not cfg.student else None
        self.chunker = Chunker(self.encoder.model.tokenizer if self.encoder else None, cfg.chunks)
        self.without = {row["query_id"]: row for uri in cfg.pick.without for row in _queries(uri)}

    def part(self, name: str) -> None:
        """Write one part of the output."""
        rows, pick = self._eligible(name), self.cfg.pick
        if pick.by == "disagreement" and pick.share < 1:
            others = [
                scores_by(row, pick.against, "pick.against") for row in rows
            ]  # before a new `prerank` takes the place of one
            scores = self._scores(rows)
            worth = [rank_disagreement(ours, theirs) for ours, theirs in zip(scores, others, strict=True)]
            stay = self._stay(rows, worth)
            rows, scores = [rows[index] for index in stay], [scores[index] for index in stay]
        else:
            worth = [float(word_count(row["query"])) if pick.by == "length" else 0.0 for row in rows]
            rows = [rows[index] for index in self._stay(rows, worth)]
            scores = self._scores(rows)
        self.out.write_part(
            name, [kept_indices(row, values, self.cfg) for row, values in zip(rows, scores, strict=True)]
        )

    def _eligible(self, name: str) -> list[dict[str, Any]]:
        """Return a part's rows in the wanted splits that have documents and were not picked before."""
        wanted = self.cfg.splits
        rows = shards.read_shard(self.cfg.input, self.planned[name], Candidates)
        eligible = [row for row in rows if row["doc_ids"] and row["split"] in wanted]
        with at_place("pick.without", "name labels of this input"):
            for row in eligible:
                check_same_query(row, self.without.get(row["query_id"], row))
        return [row for row in eligible if row["split"] in MEASURED or row["query_id"] not in self.without]

    def _stay(self, rows: list[dict[str, Any]], worth: list[float]) -> list[int]:
        """Return the indices of the rows that stay: those of dev and test, and the share of the others."""
        others = [index for index, row in enumerate(rows) if row["split"] not in MEASURED]
        names, values = [rows[index]["query_id"] for index in others], [worth[index] for index in others]
        picked = picked_indices(names, values, self.cfg.pick.share, self.cfg.seed)
        left_out = {*others} - {others[index] for index in picked}
        return [index for index in range(len(rows)) if index not in left_out]

    def _scores(self, rows: list[dict[str, Any]]) -> list[list[float]]:
        """Return the scores of each row's documents by what orders them."""
        if self.student:
            return self._by_student(self.student, rows)
        if self.encoder:
            return self._by_model(rows)
        return [list(scores_by(row, self.cfg.source, "source")) for row in rows]

    def _by_student(self, student: ChunkRanker, rows: list[dict[str, Any]]) -> list[list[float]]:
        """Return the student's scores, kept as source `prerank`."""
        queries = [row["query"] for row in rows for _ in row["texts"]]
        values, spans = student.best_chunks(queries, [text for row in rows for text in row["texts"]])
        scores, start = [], 0
        for row in rows:
            end = start + len(row["texts"])
            self._keep(row, values[start:end], spans[start:end])
            scores.append(values[start:end])
            start = end
        return scores

    def _keep(self, row: dict[str, Any], values: list[float], spans: list[list[int]]) -> None:
        """Keep scores as source `prerank`, in place of those of a pre-ranker before it, and the best chunks."""
        if self.cfg.chunks.tokens:
            row["best_chunks"] = spans
        if not all(map(math.isfinite, values)):
            problem = f"gives a document of query {row['query_id']!r} a score that is not a number"
            raise RradError(self.cfg.student or self.cfg.model, problem, "train it again, or take another one")
        columns = {**by_source(row), PRERANK: values}
        row["sources"], row["source_scores"] = list(columns), list(columns.values())

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
            self._keep(row, values, [split.spans[indices[index]] for index in best])
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
