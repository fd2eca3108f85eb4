"""The join of exposures and clicks into `Traffic`, by DuckDB: 100 million pages do not fit in memory as rows.

DuckDB, because the join is of one machine's size once rows are columns: it sorts, groups and joins beyond its
`memory_limit` on disk, in one process, and exactly in the order that is asked for. Ray Data would shuffle rows of
Python objects through an object store, and has no join that keeps an order.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rrad_ray.config import ExperimentConfig
from rrad_ray.online.event_digests import BETWEEN_WORDS
from rrad_ray.online.event_rows import CLICKS, EXPOSURES, is_called
from rrad_ray.online.traffic import Traffic, new_arrays, variant_numbers

BATCH = 65_536  # rows that are taken from DuckDB at a time

TWICE, MIXED = "exposure that came twice", "page of a unit that saw several variants"

COLUMNS_OF = {
    EXPOSURES: "seq BIGINT, request_id VARCHAR, experiment VARCHAR, unit VARCHAR, variant VARCHAR, words VARCHAR, "
    "word_count INTEGER, doc_ids VARCHAR[], teams VARCHAR[], time DOUBLE, model VARCHAR",
    CLICKS: "seq BIGINT, event_id VARCHAR, request_id VARCHAR, doc_id VARCHAR, position BIGINT, dwell_s DOUBLE, "
    "time DOUBLE",
}

_DESIGN = "named VARCHAR, interleaved BOOLEAN, variants VARCHAR[], control VARCHAR, max_age_s DOUBLE"

# Of the pages of a request the first one counts; `reason`: why it does not belong to the experiment.
_SHOWN = """CREATE VIEW shown AS SELECT exposures.*, CASE
    WHEN experiment <> named THEN 'page of another experiment'
    WHEN (len(teams) > 0) <> interleaved THEN 'page of another design'
    WHEN NOT list_has_all(variants, CASE WHEN len(teams) > 0 THEN teams ELSE [variant] END)
    THEN 'page of a variant that the config does not name' ELSE '' END AS reason
    FROM exposures SEMI JOIN firsts USING (seq) CROSS JOIN design"""

_PAGES = """CREATE TABLE pages AS SELECT
    seq, request_id, unit, variant, len(teams) > 0 AS mixes, time, words, word_count
    FROM shown ANTI JOIN mixed USING (unit) WHERE reason = '' ORDER BY unit, time, seq"""

_FREQUENCIES = """SELECT pages.rowid AS page, frequency FROM pages
    JOIN (SELECT words, count(*) AS frequency FROM pages GROUP BY words) USING (words)"""

# `plain`: without another look the click counts, where no other is on its page. `won`: as `_credit` has it.
_CLICKED = """CREATE TABLE clicked AS SELECT pages.rowid AS page, clicks.*,
    coalesce(position > 0 AND doc_ids[position] = doc_id AND clicks.time <= exposures.time + max_age_s, false)
    AS plain,
    CASE WHEN len(teams) = 0 THEN 0 WHEN teams[position] = control THEN -1 ELSE 1 END AS won
    FROM clicks JOIN pages USING (request_id) JOIN exposures ON exposures.seq = pages.seq CROSS JOIN design"""

_LONE = "CREATE TABLE lone AS SELECT page FROM clicked GROUP BY page HAVING count(*) = 1 AND bool_and(plain)"

_LONE_CLICKS = "SELECT page, position, dwell_s, won FROM clicked SEMI JOIN lone USING (page)"

_OTHER_CLICKS = """SELECT clicked.*, exposures.doc_ids, exposures.teams, exposures.time AS shown_at
    FROM clicked ANTI JOIN lone USING (page) JOIN pages ON pages.rowid = page
    JOIN exposures ON exposures.seq = pages.seq ORDER BY page, clicked.seq"""

_MODELS = """SELECT variant, model FROM exposures JOIN design ON experiment = named
    GROUP BY variant, model ORDER BY min(seq)"""


@dataclass(frozen=True)
class JoinedTraffic:
    """The traffic of a log; its usable `events` by kind, and how many dwells were `shortened` to `max_dwell_s`, if
    any; how many events were left out, by reason; and the models behind each variant, in the order in which they
    came."""

    traffic: Traffic
    events: Mapping[str, int]
    left_out: Mapping[str, int]
    models: Mapping[str, list[str]]


def join_traffic(
    exposures: Iterable[pa.Table], clicks: Iterable[pa.Table], cfg: ExperimentConfig, folder: Path
) -> JoinedTraffic:
    """Join digested events (`LogDigests.batches`), whose order in the log is that of `seq`; `folder` holds what
    memory does not, for as long as the traffic is read."""
    limits: dict[str, Any] = {"memory_limit": f"{cfg.memory_gib}GiB", "temp_directory": str(folder / "spilled")}
    with duckdb.connect(str(folder / "events.duckdb"), config=limits) as events:
        join = _Join(events, cfg, folder)
        join.load(EXPOSURES, exposures)
        join.load(CLICKS, clicks)
        return join.joined()


class _Join:
    """The steps of a join."""

    def __init__(self, events: duckdb.DuckDBPyConnection, cfg: ExperimentConfig, folder: Path) -> None:
        self.events, self.cfg, self.folder = events, cfg, folder
        self.left_out = Counter[str]()
        self.shortened = 0
        self.arrays: dict[str, np.ndarray] = {}

    def load(self, kind: str, rows: Iterable[pa.Table]) -> None:
        """Take in the events of a kind."""
        self.events.execute(f"CREATE TABLE {kind} ({COLUMNS_OF[kind]})")
        for table in rows:
            self.events.register("batch", table)
            self.events.execute(f"INSERT INTO {kind} BY NAME SELECT * FROM batch")
            self.events.unregister("batch")

    def joined(self) -> JoinedTraffic:
        """Return the traffic and what is known of it."""
        events = {kind: self._number(f"SELECT count(*) FROM {kind}") for kind in (EXPOSURES, CLICKS)}
        self._choose_pages(events[EXPOSURES])
        pages = self._number("SELECT count(*) FROM pages")
        self.arrays = new_arrays(self.folder, pages)
        units = self._write_pages()
        for batch in self._batches(_FREQUENCIES):
            self.arrays["frequency_P"][batch["page"].to_numpy()] = batch["frequency"].to_numpy()
        self._write_clicks(events[CLICKS])
        given_up = self.arrays["reformulated_P"]  # so far: followed by such a query
        given_up &= ~self.arrays["clicked_P"]
        rows = self.events.execute(_MODELS).fetchall()
        models = {variant: [model for name, model in rows if name == variant] for variant in self.cfg.variants}
        traffic = Traffic(list(self.cfg.variants), units, pages, self.arrays)
        events |= {"shortened": self.shortened} if self.shortened else {}
        return JoinedTraffic(traffic, events, {key: n for key, n in self.left_out.items() if n}, models)

    def _choose_pages(self, exposures: int) -> None:
        """Make the table of the pages that count, in their order; count the others."""
        self.events.execute("CREATE TABLE firsts AS SELECT min(seq) AS seq FROM exposures GROUP BY request_id")
        self.left_out[TWICE] = exposures - self._number("SELECT count(*) FROM firsts")
        self.events.execute(f"CREATE TABLE design ({_DESIGN})")
        design = [self.cfg.name, self.cfg.design == "interleave", list(self.cfg.variants)]
        design += [self.cfg.against, self.cfg.max_age_s]
        self.events.execute("INSERT INTO design VALUES (?, ?, ?, ?, ?)", design)
        self.events.execute(_SHOWN)
        reasons = "SELECT reason, count(*) FROM shown WHERE reason <> '' GROUP BY reason"
        self.left_out.update(dict(self.events.execute(reasons).fetchall()))
        self.events.execute(
            "CREATE TABLE mixed AS SELECT unit FROM shown WHERE reason = '' AND len(teams) = 0 "
            "GROUP BY unit HAVING min(variant) <> max(variant)"
        )
        self.left_out[MIXED] = self._number(
            "SELECT count(*) FROM shown SEMI JOIN mixed USING (unit) WHERE reason = ''"
        )
        self.events.execute(_PAGES)

    def _write_pages(self) -> int:
        """Write what a page has by itself, and whether a similar query follows it in time; return the units."""
        numbers, start, units = variant_numbers(self.cfg), 0, 0
        last: pa.RecordBatch | None = None  # the page before the batch
        # DuckDB gives rows in the order in which they were inserted.
        for batch in self._batches("SELECT unit, variant, mixes, time, words, word_count FROM pages"):
            stop, before = start + len(batch), _before(batch, last)
            new = pc.not_equal(batch["unit"], before["unit"]).to_numpy(zero_copy_only=False)
            new[0] |= last is None
            follows = ~new & (batch["time"].to_numpy() - before["time"].to_numpy() <= self.cfg.reformulation_s)
            for index in np.flatnonzero(follows):
                if _similar(before["words"][index].as_py(), batch["words"][index].as_py()):
                    self.arrays["reformulated_P"][start + index - 1] = True
            variants = batch["variant"].dictionary_encode()
            codes = np.array([numbers.get(name, -1) for name in variants.dictionary.to_pylist()])
            mixes = batch["mixes"].to_numpy(zero_copy_only=False)
            self.arrays["unit_P"][start:stop] = units - 1 + np.cumsum(new)
            self.arrays["variant_P"][start:stop] = np.where(mixes, -1, codes[variants.indices.to_numpy()])
            self.arrays["time_P"][start:stop] = batch["time"].to_numpy()
            self.arrays["words_P"][start:stop] = batch["word_count"].to_numpy()
            start, units, last = stop, units + int(new.sum()), batch.slice(len(batch) - 1)
        return units

    def _write_clicks(self, clicks: int) -> None:
        """Write what was clicked on each page; count the clicks that do not count."""
        unknown = self._number("SELECT count(*) FROM clicks ANTI JOIN exposures USING (request_id)")
        self.left_out["click without an exposure"] = unknown
        self.events.execute(_CLICKED)
        self.left_out["click on a page that is left out"] = (
            clicks - unknown - self._number("SELECT count(*) FROM clicked")
        )
        self.events.execute(_LONE)
        for batch in self._batches(_LONE_CLICKS):
            self._write_lone(*(batch[name].to_numpy() for name in ("page", "position", "dwell_s", "won")))
        rows = (row for batch in self._batches(_OTHER_CLICKS) for row in batch.to_pylist())
        for page, each in itertools.groupby(rows, key=lambda row: row["page"]):
            self._write_page(page, list(each))

    def _write_lone(self, page: np.ndarray, position: np.ndarray, dwell_s: np.ndarray, won: np.ndarray) -> None:
        """Write pages with a single click, which counts: as `_write_page` does, in columns."""
        known = ~np.isnan(dwell_s)
        self.shortened += int((dwell_s[known] > self.cfg.max_dwell_s).sum())
        self.arrays["clicked_P"][page] = True
        self.arrays["clicked_k_P"][page] = position <= self.cfg.k
        self.arrays["dwell_P"][page] = np.where(known, np.minimum(dwell_s, self.cfg.max_dwell_s), 0.0)
        self.arrays["dwelt_P"][page] = known
        self.arrays["won_P"][page] = won

    def _write_page(self, page: int, clicks: Sequence[Mapping[str, Any]]) -> None:
        """Write what was clicked on a page, by all of its clicks in their order."""
        kept = dict[str, Mapping[str, Any]]()
        for click in clicks:
            if click["event_id"] in kept:
                self.left_out["click that came twice"] += 1
            elif reason := _skip_click(click, len(kept), self.cfg):
                self.left_out[reason] += 1  # a wrong click does not use up the id of a right one
            else:
                kept[click["event_id"]] = click
        if not kept:
            return
        known = [click["dwell_s"] for click in kept.values() if not math.isnan(click["dwell_s"])]
        dwells = [min(dwell, self.cfg.max_dwell_s) for dwell in known]
        self.shortened += sum(dwell > self.cfg.max_dwell_s for dwell in known)
        self.arrays["clicked_P"][page] = True
        self.arrays["clicked_k_P"][page] = any(click["position"] <= self.cfg.k for click in kept.values())
        self.arrays["dwell_P"][page], self.arrays["dwelt_P"][page] = sum(dwells), len(dwells)
        self.arrays["won_P"][page] = _credit(list(kept.values()), self.cfg.against)

    def _number(self, query: str) -> int:
        return self.events.execute(query).fetchall()[0][0]

    def _batches(self, query: str) -> Iterator[pa.RecordBatch]:
        return iter(self.events.sql(query).to_arrow_reader(BATCH))


def _before(batch: pa.RecordBatch, last: pa.RecordBatch | None) -> pa.Table:
    """Return for each row of a batch the row before it: for the first one `last`, or itself if that is None."""
    first = batch.slice(0, 1) if last is None else last
    return pa.Table.from_batches([first, batch.slice(0, len(batch) - 1)]).combine_chunks()


def _skip_click(click: Mapping[str, Any], kept: int, cfg: ExperimentConfig) -> str:
    """Return why a click does not count on its page, which has so many that do; empty if it does."""
    if click["doc_id"] not in click["doc_ids"]:
        return "click on a document that was not shown"
    index = click["position"] - 1
    if not (0 <= index < len(click["doc_ids"]) and is_called(click["doc_ids"][index], click["doc_id"], index)):
        return "click on a document that stood at another position"
    if click["time"] > click["shown_at"] + cfg.max_age_s:
        return "click long after its page (max_age_s)"
    return "click beyond those of a page (max_clicks)" if kept >= cfg.max_clicks else ""


def _credit(clicks: Sequence[Mapping[str, Any]], control: str) -> int:
    """Return the number of clicked documents of the treatment less that of the control; a document counts once."""
    teams = clicks[0]["teams"]
    clicked = {click["position"] - 1 for click in clicks} if teams else ()
    return sum(-1 if teams[index] == control else 1 for index in clicked)


def _similar(words: str, later: str) -> bool:
    """Return true for another query that shares a word with one.

    Users rewrite a query whose results do not satisfy them: Hassan, Shi, Craswell and Ramsey, CIKM 2013. Shared words
    and time as signs of a rewritten query: Huang and Efthimiadis, CIKM 2009. The exact rule is ours: nothing on the
    page was clicked, and the unit's next query, within `reformulation_s`, is such a one.
    """
    return words != later and not set(words.split(BETWEEN_WORDS)).isdisjoint(later.split(BETWEEN_WORDS))
