"""The journal of a run: durable answers of shards that are not whole yet, which are not asked for again."""

from __future__ import annotations

import time

from rrad_ray import tables
from rrad_ray.config import JudgeConfig
from rrad_ray.rows import Answer
from rrad_ray.runtime.dev_first import PromptKey
from rrad_ray.runtime.first_errors import ASKED_AGAIN

MOST_PENDING = 1000  # queries whose answers may be in memory only


class AnswerJournal:
    """The durable answers of unfinished shards: `OUTPUT/journal/part-00000.parquet`, ... until the table is
    finished."""

    def __init__(self, cfg: JudgeConfig, out: tables.Output) -> None:
        self.out, self.every_s = out, cfg.durable_s
        self.folder = tables.name_of_slice(tables.JOURNAL, cfg)
        self.uri = tables.join(out.uri, self.folder)
        self.pending: dict[str, list[Answer]] = {}  # by shard
        self.queries: set[tuple[str, int]] = set()
        self.last = time.monotonic()
        self.names = tables.part_names(self.uri)
        taken = (tables.part_number(name) for name in self.names if tables.is_own_part(name))  # no copies of them
        self.number = 1 + max(taken, default=-1)

    def load(self, parts: set[str]) -> dict[str, dict[PromptKey, Answer]]:
        """Return the answers that earlier runs have of these parts, without errors that are `ASKED_AGAIN`."""
        answers: dict[str, dict[PromptKey, Answer]] = {part: {} for part in parts}
        for name in self.names:
            for answer in tables.read_part(self.uri, name, Answer):
                if answer["part"] in parts and not answer["error"].startswith(ASKED_AGAIN):
                    answers[answer["part"]][answer["row"], answer["slot"]] = answer  # type: ignore[assignment]
        return answers

    def add(self, answer: Answer) -> None:
        """Hold an answer until the next flush."""
        self.pending.setdefault(answer["part"], []).append(answer)
        self.queries.add((answer["part"], answer["row"]))

    def forget(self, part: str) -> None:
        """Drop the answers of a shard whose own part is written."""
        for answer in self.pending.pop(part, []):
            self.queries.discard((part, answer["row"]))

    def due(self) -> bool:
        """Return true when it is time to flush."""
        return time.monotonic() - self.last >= self.every_s or len(self.queries) >= MOST_PENDING

    def flush(self) -> None:
        """Write the answers that are not durable yet."""
        rows = [answer for part in self.pending.values() for answer in part]
        if rows:
            self.out.write_part(tables.part_name(self.number), rows, Answer, self.folder)
            self.number += 1
        self.pending, self.queries, self.last = {}, set(), time.monotonic()


def drop_journal(cfg: JudgeConfig) -> None:
    """Remove the journal of a run whose parts all stand, which is not read again."""
    tables.remove(tables.join(cfg.output, tables.name_of_slice(tables.JOURNAL, cfg)))
