"""Configs of the first stage: `retrieve` and `prerank`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from rrad_ray.config.base import (
    CHECKED,
    MINILM,
    NO_BOOL,
    Actors,
    Count,
    CountOrNone,
    Given,
    GivenUri,
    Integer,
    ResourceSpec,
    Seed,
    Share,
    Splits,
    StagePaths,
    Uri,
    require,
)
from rrad_ray.config.chunks import ChunksConfig
from rrad_ray.languages import Language
from rrad_ray.rows import JUDGE, PRERANK, SPLITS, Split

BEIR_COLUMNS = {"id": "_id", "title": "title", "text": "text"}  # of documents and queries, as BEIR calls them


def _splits_only(key: str, mapping: dict[str, int] | dict[str, str]) -> None:
    for split in mapping:
        require(split in SPLITS, key, split, f"choose one of {', '.join(SPLITS)}")


TAKEN = (PRERANK, "fusion", "teacher", "shuffled", "given")  # what tables of figures have beside the sources


@dataclass(frozen=True, config=CHECKED)
class IndexConfig:
    """An index (faiss's inverted lists) in place of the exact product of all vectors: each query meets the documents
    of the lists nearest to it. It needs the extra `faiss`."""

    probes: CountOrNone = 0
    """Lists of each part that a query is compared with; 0: no index, each query is compared with every document."""
    lists: CountOrNone = 0
    """Lists of each part; 0: four times the square root of its number of documents."""
    sample: Count = 100
    """Queries on which the index is compared with the exact product: `recall` in the manifest and the report."""

    def __post_init__(self) -> None:
        require(not self.lists or self.probes <= self.lists, "probes", self.probes, "must be at most `lists`")


@dataclass(frozen=True, config=CHECKED)
class RetrieveConfig:
    """First stage: the nearest documents by BM25 and by a bi-encoder, or the user's own runs."""

    RESUMABLE: ClassVar[tuple[str, ...]] = ("num_workers", "resources", "batch_tokens")

    data: Uri
    """The collection: a BEIR folder, whose texts are `.jsonl`, `.jsonl.gz` or `.parquet`;
    `pydoc:`, the documentation of this Python environment; or a file of candidates
    with their texts, taken as they are: RankLLM requests or RankGPT hits (`.json`, `.jsonl` or `.ndjson`), MS MARCO's
    top1000 (`.tsv`)."""
    output: Uri
    """The folder of the candidates, local or `s3://`."""
    collected: Uri = ""
    """The output of `collect`: its queries, with their splits and qrels, in place of the collection's own."""
    qrels: dict[str, GivenUri] = Field(default_factory=dict)
    """For a file of candidates: the TREC qrels file of each split, as in {dev: dev.qrels}."""
    columns: dict[str, Given] = Field(default_factory=dict)
    """What id, title and text are called in the files of documents and queries, where it is not `_id`, `title` and
    `text`, as in {id: docid, text: body}."""
    run: Uri = ""
    """A run of your own first stage: TREC's lines, or Parquet with `query_id`, `doc_id` and `score`. Its documents
    are the candidates; nothing is embedded or indexed. Empty: none."""
    runs: dict[str, GivenUri] = Field(default_factory=dict)
    """Several runs, each a source under its name, as in {bm25: a.run, splade: b.run}."""
    language: Language = "auto"
    """How BM25 cuts texts into terms. `auto`: each word by its script, which needs nothing more. `zh`, `ja` and `ko`
    add the words of a dictionary, of the extra of that name; the others stem words of their script (`de`)."""
    model: str = MINILM
    """The bi-encoder: a local folder, an `s3://` folder, a hub id, or a `bundled:` model."""
    bm25_depth: CountOrNone = 10
    """Documents that BM25 brings for each query; 0: none."""
    dense_depth: CountOrNone = 10
    """Documents that the bi-encoder brings for each query; 0: none."""
    vectors: Uri = ""
    """A folder where the documents' vectors are kept, for this run and later ones over the same collection by the
    same model; or your own vectors: Parquet with `id` and `vector`. Empty: they are not kept."""
    query_vectors: Uri = ""
    """Your own vectors of the queries: Parquet with `id` and `vector`. Empty: `model` embeds the queries."""
    index: IndexConfig = Field(default_factory=IndexConfig)
    """An approximate search by vectors, for what is too large for an exact one; see `retrieve.index`."""
    part_documents: Count = 65536
    """Documents of a part of the collection. A process holds a part's vectors and its terms."""
    block_queries: Count = 8192
    """Queries of a block. A process holds a block's candidates with their texts."""
    queries: dict[str, Integer] = Field(default_factory=dict)
    """The most queries of a split, as in {test: 300}; a split that is not named gives all of them."""
    document_queries: CountOrNone = 0
    """The number of further unlabelled queries to make from sentences of the documents. The first stage's scores for
    them are free labels, which a student learns before those of an LLM; an LLM need not be asked about them."""
    batch_tokens: Count = 8192
    """Tokens of one forward pass of the bi-encoder."""
    max_length: Count = 128
    """Tokens of a document that the bi-encoder reads."""
    num_workers: Actors = 1
    """The most processes that embed and search, or {min: 2, max: 8}: they come and go with the work and the
    cluster."""
    resources: ResourceSpec = Field(default_factory=lambda: {"CPU": 1.0})
    """What one of them asks of Ray, as in {GPU: 1}."""
    rows_per_part: Count = 128
    """Queries of one part of the output."""
    max_quarantined: Share = 0.05
    """The share of bad rows above which the stage stops."""
    seed: Seed = 0
    """Draws the queries where `queries` limits them."""

    def __post_init__(self) -> None:
        for key in self.columns:
            require(key in BEIR_COLUMNS, "columns", key, f"choose one of {', '.join(BEIR_COLUMNS)}")
        require(not self.run or not self.runs, "runs", self.runs, "give run or runs, not both")
        searched = not (self.run or self.runs) or not self.document_queries
        require(
            searched, "document_queries", self.document_queries, "a run has no candidates for them: leave it at 0"
        )
        indexed = self.index.probes == 0 or (self.dense_depth > 0 and not self.all_runs)
        want = "an index serves the search by vectors: leave it at 0 with a run, or where dense_depth is 0"
        require(indexed, "index.probes", self.index.probes, want)
        for name in self.runs:
            require(bool(name.strip()), "runs", name, "give every run a name")
            require(name != JUDGE, "runs", name, "that is the teacher's name; choose another one")
            require(
                name not in TAKEN, "runs", name, "the gate, the report or `prerank` calls another order so; rename it"
            )
        sources = bool(self.run or self.runs) or self.bm25_depth + self.dense_depth > 0
        require(sources, "bm25_depth", self.bm25_depth, "bm25_depth or dense_depth must be above 0, or give a run")
        _splits_only("queries", self.queries)
        for split, limit in self.queries.items():
            require(limit >= 0, f"queries.{split}", limit, "must not be negative")
        _splits_only("qrels", self.qrels)
        require("unlabelled" not in self.qrels, "qrels", "unlabelled", "queries with qrels are train, dev or test")

    @property
    def all_runs(self) -> dict[str, str]:
        """The runs by source: `run` is the source of that name."""
        return {"run": self.run} if self.run else self.runs

    @property
    def column_names(self) -> dict[str, str]:
        """The names of id, title and text in the files of the collection."""
        return {**BEIR_COLUMNS, **self.columns}

    @property
    def block_rows(self) -> int:
        """The queries of a block: whole parts of the output."""
        return max(1, self.block_queries // self.rows_per_part) * self.rows_per_part


@dataclass(frozen=True, config=CHECKED)
class PickConfig:
    """Which queries stay, where labels for all of them cost too much. Those of `dev` and `test` always do."""

    by: Literal["random", "length", "disagreement"] = "random"
    """Which ones come first: drawn by the seed; those with the most words; or those whose candidates `prerank` orders
    most unlike `against`, as 1 - Kendall's tau with hyperbolic weights, which counts the top most (Vigna, 2015)."""
    share: Annotated[float, Field(gt=0, le=1), NO_BOOL] = 1.0
    """The share of the queries that stay, of each shard of the input; 1: all."""
    against: str = "dense"
    """`disagreement`: the source whose order is compared. To compare two students, give a table that `prerank` made
    with the other student, and `prerank` here."""
    without: list[GivenUri] = Field(default_factory=list)
    """Tables whose queries are not picked again, such as the labels of an earlier round."""


@dataclass(frozen=True, config=CHECKED)
class PrerankConfig(StagePaths):
    """Pre-ranker: orders the candidates and keeps the top-k, the bottom-k and, between them, a random few."""

    RESUMABLE: ClassVar[tuple[str, ...]] = ("num_workers", "resources")

    source: str = ""
    """Order by the scores of this source (`dense`), which `retrieve` kept; empty: run `model` on the texts."""
    model: str = MINILM
    """The bi-encoder that orders where `source` and `student` are empty."""
    student: Uri = ""
    """A student that orders: the output of `train`, or the folder of any ranker's checkpoint. A second round of
    labels is of its candidates."""
    top_k: CountOrNone = 10
    """Documents kept from the top."""
    bottom_k: CountOrNone = 5
    """Documents kept from the bottom."""
    random_k: CountOrNone = 0
    """Documents kept at random from those between."""
    chunks: ChunksConfig = Field(default_factory=ChunksConfig)
    """Long documents in chunks, where `model` or `student` orders them."""
    splits: Splits = ("train", "dev", "test", "unlabelled")
    """Splits whose queries stay: `[dev, test]` gives the candidates that are to be judged."""
    pick: PickConfig = Field(default_factory=PickConfig)
    """Which queries stay, where labels for all of them cost too much."""
    keep_whole: tuple[Split, ...] = ("dev", "test")
    """Splits whose candidates all stay, so that they can be measured."""
    batch_tokens: Count = 8192
    """Tokens of one forward pass of the bi-encoder."""
    max_length: Count = 128
    """Tokens of a document that the bi-encoder reads."""
    num_workers: Actors = 1
    """The most processes, or {min: 2, max: 8}: they come and go with the work and the cluster."""
    resources: ResourceSpec = Field(default_factory=lambda: {"CPU": 1.0})
    """What one of them asks of Ray, as in {GPU: 1}."""
    max_quarantined: Share = 0.05
    """The share of bad rows above which the stage stops."""
    seed: Seed = 0
    """Draws the `random_k` and, with `pick.by: random`, the queries."""

    def __post_init__(self) -> None:
        want = "the scores of a source are of whole documents: leave source out"
        require(not self.chunks.tokens or not self.source, "chunks.tokens", self.chunks.tokens, want)
        require(not self.student or not self.source, "student", self.student, "leave source out, or student")
        if not self.student:  # which has a limit of its own
            self.chunks.check_within("max_length", self.max_length)
        kept = self.top_k + self.bottom_k + self.random_k
        require(kept >= 2, "top_k", self.top_k, "keep at least two documents")
