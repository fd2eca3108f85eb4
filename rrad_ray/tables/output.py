"""Tables: Parquet parts under one URI, local or `s3://`, and a manifest that is written last.

    OUTPUT/part-00000.parquet ...   the rows; a part is written whole or not at all
    OUTPUT/quarantine/...           bad input rows with the reason
    OUTPUT/started.json             config, inputs and versions of the run that owns the folder: a killed run resumes
    OUTPUT/progress.json            how far a long run is, written every few seconds: what `rrad status` reads
    OUTPUT/.lease/...               which process writes the folder, until it ends: see `leases`
    OUTPUT/manifest.json            last: a table without one does not exist to readers

Credentials and the endpoint of S3 come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...).
"""

from __future__ import annotations

import dataclasses
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

import pyarrow as pa

from rrad_ray import versions
from rrad_ray.errors import RradError, in_stage
from rrad_ray.progress import say
from rrad_ray.rows import Quarantined
from rrad_ray.tables import spans
from rrad_ray.tables.apart import check_apart
from rrad_ray.tables.claims import Claim, Started, claim_of, find_started, settings_of
from rrad_ray.tables.files import create_bytes, join, remove, remove_abandoned, write_bytes, write_text
from rrad_ray.tables.fingerprints import fingerprint
from rrad_ray.tables.json_files import json_text, write_json
from rrad_ray.tables.leases import LEASES, Lease, clear_leases
from rrad_ray.tables.manifest import MANIFEST, Lineage, Manifest
from rrad_ray.tables.part_files import part_bytes
from rrad_ray.tables.reading import (
    PROGRESS,
    QUARANTINE,
    STARTED,
    measured_parts,
    name_of_slice,
    part_name,
    part_names,
    read_columns,
)
from rrad_ray.tables.schema import check_schema, schema_of, table_of_rows
from rrad_ray.tables.secrets import redacted

C = TypeVar("C")  # a stage's config


def _input(cfg: Any) -> dict[str, str]:
    return {"input": cfg.input}


class Stage(Generic[C]):
    """A stage as a callable, made by `stage`: `run(cfg) -> uri`."""

    def __init__(
        self,
        name: str,
        row: type | None,
        inputs: Callable[[C], Mapping[str, str]],
        until_done: str,
        keeps_quarantine: bool,
        body: Callable[[C, Output], None],
    ) -> None:
        self.name, self.row, self.inputs, self.until_done, self.body = name, row, inputs, until_done, body
        self.keeps_quarantine = keeps_quarantine
        self.__doc__ = body.__doc__

    def __call__(self, cfg: C) -> str:
        """Open the output, have the body fill and commit it unless it is finished, and return its URI.

        Raises `RradError` where another run writes it.
        """
        with in_stage(self.name), ExitStack() as stack:
            span = stack.enter_context(spans.begin(f"stage {self.name}", {"rrad.stage": self.name}))
            lease: Lease | None = None
            state, uri = self.claim(cfg).state, cfg.output  # type: ignore[attr-defined]
            if state in ("new", "resume"):
                lease = stack.enter_context(Lease(uri, self.name, name_of_slice(LEASES, cfg)))
            elif state == "finished":
                clear_leases(uri, self.name, name_of_slice(LEASES, cfg))
            out = Output(self.name, cfg, self.row, self.inputs(cfg), lease)  # looks again: a run may just have ended
            span.set({"rrad.output": redacted(out.uri), "rrad.finished_before": out.finished})
            if not out.finished:
                if out.resumed and not self.keeps_quarantine:  # this run sets all bad rows aside again
                    if lease:
                        lease.check()
                    remove(join(out.uri, QUARANTINE))
                self.body(cfg, out)
            if self.until_done:  # not by the body, for a kill in between must not leave it for good
                remove(join(out.uri, self.until_done))
            return out.uri

    def claim(self, cfg: C) -> Claim:
        """Return what a run would do, without running or writing anything.

        Raises `RradError` for a missing input, and for an output that does not stand apart from the inputs.
        """
        with in_stage(self.name):
            check_apart(cfg)
            return claim_of(cfg, _fingerprints(self.inputs(cfg)))


def stage(
    name: str,
    row: type | None,
    inputs: Callable[[Any], Mapping[str, str]] = _input,
    *,
    until_done: str = "",
    keeps_quarantine: bool = False,
) -> Callable[[Callable[[C, Output], None]], Stage[C]]:
    """Make `body(cfg, out)` a stage: its errors and progress lines begin with its name, and its output is opened for
    it.

    A finished output is left as it is. `row`: the type of the rows that the stage writes; None: it writes other
    files. `inputs`: the tables and files that it reads, by name. `until_done`: the folder below the output that a
    killed run goes on from, which goes once the manifest stands. `keeps_quarantine`: a run that goes on does not read
    the finished parts' input again, so what is set aside of it stays; each part has a quarantine of its own.
    """
    return lambda body: Stage(name, row, inputs, until_done, keeps_quarantine, body)


def _fingerprints(inputs: Mapping[str, str]) -> dict[str, str]:
    return {name: fingerprint(uri) for name, uri in inputs.items() if uri}


class Output:
    """The folder that one stage run writes: resumable parts, a quarantine, the manifest last.

    `inputs` names the tables or files that the rows come from; the same config over the same inputs is the same
    output. Opening it raises `RradError` if the folder belongs to another config, and sets `finished` if there
    is nothing to do. `lease`: what keeps other runs out, where others may come.
    """

    def __init__(
        self, stage: str, cfg: Any, row: type | None, inputs: Mapping[str, str], lease: Lease | None = None
    ) -> None:
        self.stage, self.uri, self.row, self.lease = stage, cfg.output, row, lease
        self.progress = name_of_slice(PROGRESS, cfg)
        self.config, self.inputs = settings_of(cfg), _fingerprints(inputs)
        self.began = time.time()
        self.quarantined: list[Quarantined] = []
        self.versions: dict[str, str] = {}
        self.resumed = False
        self.finished = self._claim(cfg)
        say(f"{'already done, nothing to do' if self.finished else 'running'} -> {self.uri}")

    def _claim(self, cfg: Any) -> bool:
        """Return true where the output stands finished; claim the folder for this config otherwise."""
        claim = claim_of(cfg, self.inputs)
        if claim.state == "refused":
            raise RradError(self.uri, claim.reason, "choose a new output, or delete this one")
        if claim.state == "finished":
            return True
        if claim.state == "resume":
            self.resumed = True
            remove_abandoned(self.uri)
            started = find_started(self.uri)
            self.versions = started.versions if started else {}
        self.note_versions(versions.installed())
        return False

    def note_versions(self, now: Mapping[str, str]) -> None:
        """Take down by which versions of packages, or of models that may change, this run makes its rows.

        They go behind those of earlier runs of the same output. A warning says which ones differ.
        """
        earlier = {name: self.versions[name] for name in now if name in self.versions}
        changed = {name: was for name, was in earlier.items() if was.rpartition(", ")[2] != now[name]}
        if changed:
            listing = ", ".join(f"{name} {now[name]} (before: {was})" for name, was in changed.items())
            remedy = "install the earlier versions again, or choose a new output, if all rows are to be made alike"
            say(f"warning: goes on with {listing}; {remedy}")
        self.versions = {**now, **self.versions, **{name: f"{was}, {now[name]}" for name, was in changed.items()}}
        started = Started(self.stage, self.config, self.inputs, self.versions)
        write_json(join(self.uri, STARTED), dataclasses.asdict(started), indent=2)

    def parts(self) -> list[str]:
        """Return the parts that an earlier, killed run of the same config has finished."""
        return list(measured_parts(self.uri))

    def write_part(
        self, name: str, rows: Sequence[Mapping[str, Any]], row: type | None = None, folder: str = ""
    ) -> None:
        """Write one part, whole or not at all. `name` as in `part_name(3)`."""
        if self.lease and self.lease.lost:
            self.lease.check()
        uri = join(self.uri, folder, name) if folder else join(self.uri, name)
        kind = row or self.row
        assert kind is not None
        try:
            table = table_of_rows(rows, kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, KeyError) as error:
            problem = f"a row does not fit its type: {type(error).__name__}: {error}"
            raise RradError(uri, problem, "report this as a bug") from error
        check_schema(table, kind, uri)
        self._write(uri, part_bytes(table))

    def _write(self, uri: str, content: bytes) -> None:
        """Write a file of the output; over one that is there, only while this run has the output.

        A run may stand still, or its request be on the way, for as long as others have waited: what the one that took
        over has written stays as it is.
        """
        if self.lease and create_bytes(uri, content):
            return
        if self.lease:
            self.lease.check()
        write_bytes(uri, content)

    def write_all(self, rows: Iterable[Mapping[str, Any]], rows_per_part: int) -> int:
        """Write rows in parts of a fixed size; the number of rows."""
        buffer: list[Mapping[str, Any]] = []
        count = number = 0
        for item in rows:
            buffer.append(item)
            if len(buffer) == rows_per_part:
                self.write_part(part_name(number), buffer)
                count, number, buffer = count + len(buffer), number + 1, []
        if buffer or number == 0:
            self.write_part(part_name(number), buffer)
        return count + len(buffer)

    def quarantine(self, id: str, reason: str, content: str = "") -> None:
        """Set a bad row aside; `commit` writes and counts them."""
        # A lone surrogate, which may be what is wrong with the row, cannot be written.
        id, reason, content = (
            text.encode(errors="backslashreplace").decode() for text in (id, reason, content[:2000])
        )
        self.quarantined.append({"stage": self.stage, "id": id, "reason": reason, "content": content})

    def write_quarantine(self, name: str) -> None:
        """Write what has been set aside since the last call, as part `name` of the quarantine, in place of what an
        earlier run has set aside of that part."""
        if self.quarantined:
            self.write_part(name, self.quarantined, Quarantined, QUARANTINE)
            self.quarantined = []
        elif self.resumed:
            remove(join(self.uri, QUARANTINE, name))

    def set_aside(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each part of the quarantine with the reasons of its rows."""
        folder = join(self.uri, QUARANTINE)
        for name in part_names(folder):
            yield name, read_columns(folder, name, ["reason"])["reason"].to_pylist()

    def _reasons(self) -> dict[str, int]:
        """Return how many rows were quarantined for each reason, by this run and by earlier ones of the same
        output."""
        counts: dict[str, int] = {}
        for _, reasons in self.set_aside():
            for reason in reasons:
                kind = reason.partition(":")[0]
                counts[kind] = counts.get(kind, 0) + 1
        return counts

    def write_progress(self, state: Mapping[str, Any]) -> None:
        """Write how far the run is, for `rrad status`."""
        facts = {"stage": self.stage, "host": socket.gethostname(), "pid": os.getpid(), "updated": time.time()}
        write_text(join(self.uri, self.progress), json_text({**facts, **state}, indent=2), durable=False)

    def check_quarantine(self, seen: int | None = None, max_quarantined: float = 1.0) -> dict[str, int]:
        """Write the quarantine; how many rows it holds for each reason. `seen`: how many rows were looked at.

        Raises `RradError` if more than the share `max_quarantined` of them were bad; the quarantine stays to be read.
        """
        if self.quarantined:
            self.write_quarantine(part_name(0))
        reasons = self._reasons()
        bad = sum(reasons.values())
        uri = join(self.uri, QUARANTINE)
        if reasons:
            listing = ", ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items()))
            say(f"set aside {listing}; see {uri}")
        if seen and bad / seen > max_quarantined:
            share = f"{bad} of {seen} rows are bad ({reasons})"
            raise RradError(uri, share, "raise max_quarantined and run again, or mend the input")
        return reasons

    def commit(
        self,
        *,
        seen: int | None = None,
        max_quarantined: float = 1.0,
        lineage: Lineage | None = None,
        planned: Iterable[str] | None = None,
        **facts: Any,
    ) -> str:
        """Write the quarantine as `check_quarantine` does, which may raise, then the manifest, and return the URI.

        `lineage`: what the output hands to later stages; default: nothing. `planned`: the names of all parts that the
        run has; another one there raises `RradError`. `facts`: figures of the run for people.
        """
        if planned is not None and (strays := sorted({*part_names(self.uri)} - {*planned})):
            problem = "is no part of this run: its rows would count too, and may be another part's"
            raise RradError(join(self.uri, strays[0]), problem, "delete it, and run again")
        reasons = self.check_quarantine(seen, max_quarantined)
        manifest = Manifest(
            stage=self.stage,
            schema={} if self.row is None else {column.name: str(column.type) for column in schema_of(self.row)},
            config=self.config,
            inputs=self.inputs,
            quarantined=reasons,
            versions=self.versions,
            seconds=round(time.time() - self.began, 2),
            facts=facts,
            lineage=lineage or Lineage(),
            parts=None if self.row is None else measured_parts(self.uri),
        )
        if self.lease:
            self.lease.check()
        self._write(join(self.uri, MANIFEST), manifest.to_json().encode())
        say(f"done in {manifest.seconds:.0f} s -> {self.uri}")
        return self.uri
