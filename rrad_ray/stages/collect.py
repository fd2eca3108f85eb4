"""collect: the queries that are new since the last night, a part of them set apart to be judged.

Queries are the same where `folded` makes them so. Which queries earlier nights had, `publish` writes below the store
when a night is decided: those of a night that never came to its end are new again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rrad_ray import tables
from rrad_ray.config import LAST_STUDENT, CollectConfig
from rrad_ray.data import beir
from rrad_ray.data.collection import Query
from rrad_ray.errors import NothingToDo, RradError
from rrad_ray.evaluation.night_history import ASKED, record_night
from rrad_ray.evaluation.winner import parse_winner
from rrad_ray.languages.scripts import folded, folded_digest
from rrad_ray.online.event_log import log_files, usable_tables
from rrad_ray.online.event_rows import EXPOSURES
from rrad_ray.progress import say
from rrad_ray.rows import CollectedQuery
from rrad_ray.tables.checkpoints import WINNER_FILE
from rrad_ray.tables.leases import Lease
from rrad_ray.tables.sampling import draw_hash


# The input grows while a night runs, and a night that was killed goes on with the queries that it has.
@tables.stage("collect", CollectedQuery, lambda cfg: {})
def run(cfg: CollectConfig, out: tables.Output) -> None:
    """Write the night's queries, and below `last/` a copy of the winner that the night begins from: a model's folder.

    Raises `NothingToDo` for fewer new queries than `min_queries`, and `RradError` for a store without a winner or an
    input that cannot be read.
    """
    winner = tables.read_text(tables.join(cfg.store, WINNER_FILE))
    parsed = parse_winner(winner, cfg.store)
    if cfg.needs_student and not parsed.student:
        problem = f"its winner, {parsed.system!r}, is a first stage, which has no student to begin from"
        remedy = "set needs_student=false, and name the student's model and whom the night compares (docs/nightly.md)"
        raise RradError(cfg.store, problem, remedy)
    known, new, seen = _known(cfg), dict[str, Query](), 0
    for query in _asked(cfg, out):
        seen += 1
        text = folded(query.text)
        if text not in known and (text not in new or (query.judged and not new[text].judged)):
            new[text] = query  # of several of one text, one that people have judged
    seen += len(out.quarantined)
    if len(new) < cfg.min_queries:
        out.check_quarantine(seen, cfg.max_quarantined)
        reason = f"{len(new):,} new queries among {seen:,}, of at least {cfg.min_queries:,}: a later night takes them"
        with Lease(cfg.store, "collect"):
            record_night(cfg.store, cfg.night, "waits", reason)
        raise NothingToDo(reason)
    # Judged ones first: nobody judges a query so that the budget leaves it out.
    drawn = sorted(new, key=lambda text: (not new[text].judged, draw_hash(cfg.seed, text)))[: cfg.max_queries]
    rows = [_row(new[text], text, cfg) for text in drawn]
    splits = {split: sum(row["split"] == split for row in rows) for split in sorted({row["split"] for row in rows})}
    say(f"{len(rows):,} of {len(new):,} new queries among {seen:,}: {splits}")
    for name in out.parts():  # of a killed run, which had other queries
        tables.remove(tables.join(out.uri, name))
    out.write_all(rows, 10_000)
    tables.write_text(tables.join(out.uri, LAST_STUDENT, WINNER_FILE), winner)
    out.commit(
        seen=seen, max_quarantined=cfg.max_quarantined, rows=len(rows), new=len(new), asked=seen, queries=splits
    )


def _asked(cfg: CollectConfig, out: tables.Output) -> Iterator[Query]:
    """Yield the queries of the input; rows that cannot be used are quarantined."""
    if tables.data_files(tables.join(cfg.input, EXPOSURES), (".parquet",)):
        for file in log_files(cfg.input, EXPOSURES):
            for table in usable_tables(file, EXPOSURES, out.quarantine):
                yield from map(_query, filter(str.strip, table["query"].unique().to_pylist()))
        return
    texts = beir.read_beir_texts(cfg.input, "queries", out.quarantine)
    queries, _ = beir.read_judged(cfg.input, None, out.quarantine, texts)
    yield from queries


def _query(text: str) -> Query:
    """Return a query of the log, named by a digest of what it asks."""
    return Query(folded_digest(text).hex(), text, "unlabelled", {})


def _known(cfg: CollectConfig) -> set[str]:
    """Return the texts of the frozen queries and of those that other nights had, as `folded` compares them."""
    names = sorted(tables.names_in(tables.join(cfg.store, ASKED), ".parquet"))
    sources: Iterable[tuple[str, str]] = [
        (tables.join(cfg.store, ASKED), f"{name}.parquet") for name in names if name != cfg.night
    ]
    if cfg.frozen:
        sources = [*sources, *((cfg.frozen, name) for name in tables.finished_parts(cfg.frozen))]
    return {
        folded(text)
        for folder, name in sources
        for text in tables.read_columns(folder, name, ["query"])["query"].to_pylist()
    }


def _row(query: Query, text: str, cfg: CollectConfig) -> CollectedQuery:
    """Return a query with its split: that of its qrels, or for a share of the others one that is to be judged."""
    split = query.split
    if split == "unlabelled":
        # Another draw than that of the budget, whose smallest hashes are all that is left.
        share = int(draw_hash(cfg.seed, f"judged:{text}")[:16], 16) / 2**64
        if share < cfg.judged_share:
            split = "dev" if share < cfg.judged_share * cfg.dev_share else "test"
    ids, grades = list(query.judged), list(query.judged.values())
    return {"query_id": query.query_id, "query": query.text, "split": split, "qrel_ids": ids, "qrel_grades": grades}
