"""Files of hits: those of a block of queries in a part of the collection, or in runs."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from rrad_ray import tables
from rrad_ray.retrieval.hits import Hits
from rrad_ray.retrieval.workspace import read_table, write_table

PART_BITS = 32  # a document's number: that of its part above these bits, its row in the part below

RUNS = "runs"  # the source of hits that come from runs

COMPARED = "compared"  # the folder of hits by an index beside exact ones

HIT_ROWS = 2**16  # of a row group


def hits_uri(work: str, source: str, block: str, folder: str = "hits") -> str:
    """Return the file of the hits of a block in `source`: a part of the collection, or `RUNS`."""
    return tables.join(work, folder, f"{source.removesuffix('.parquet')}-{block}")


def write_hits(uri: str, hits: Hits) -> None:
    """Write hits whole or not at all; their queries are numbers in the block."""
    scores = {_score_column(source): values for source, values in hits.scores.items()}
    columns = {"query": hits.queries, "document": hits.documents, **scores}
    write_table(uri, pa.table({name: pa.array(column) for name, column in columns.items()}), HIT_ROWS)


def read_hits(uri: str, sources: Sequence[str]) -> Hits:
    """Read what `write_hits` has written."""
    table = read_table(uri)
    scores = {source: table[_score_column(source)].to_numpy() for source in sources}
    return Hits(table["query"].to_numpy(), table["document"].to_numpy(), scores)


def _score_column(source: str) -> str:
    """Return the column of a source's scores; users name their runs, and one may be called `query`."""
    return f"score of {source}"
