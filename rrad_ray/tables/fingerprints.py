"""Fingerprints of inputs: a changed one makes another output, whatever names, sizes and times its files keep."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from rrad_ray.errors import RradError
from rrad_ray.tables.data_files import data_facts
from rrad_ray.tables.file_digests import file_digest
from rrad_ray.tables.files import absolute, io_errors, join
from rrad_ray.tables.manifest import find_manifest
from rrad_ray.uris import is_s3

MODEL = "model"  # the folder of a student's checkpoint in the output of `train`


def fingerprint(uri: str) -> str:
    """Return `NAMES-CONTENT`, two short digests of an input URI.

    Of a table: its config and inputs, and the rows, bytes and digests of its parts; of a student its weights too.
    Else: names and sizes of its files, and their contents (on S3 their ETags). Raises `RradError` where nothing is.
    """
    manifest = find_manifest(uri)
    if manifest is not None:
        model = join(uri, MODEL)
        weights = data_facts(model) if manifest.parts is None else {}
        made_of = _of_files(model, weights) if weights else manifest.parts
        return f"{_short([manifest.stage, manifest.config, manifest.inputs])}-{_short(made_of)}"
    if not (files := data_facts(uri)):
        raise RradError(uri, "nothing there", "check the path")
    return _of_files(uri, files)


def _of_files(uri: str, files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the fingerprint of files below `uri`, by their facts."""
    sizes = [
        (name or uri.rpartition("/")[2], facts["size"], *facts.get("partitions", ())) for name, facts in files.items()
    ]
    if is_s3(uri):
        contents = [facts.get("ETag") for facts in files.values()]
    else:
        with io_errors(uri):
            contents = [file_digest(join(absolute(uri), name) if name else absolute(uri)) for name in files]
    return f"{_short(sizes)}-{_short(contents)}"


def same_input(was: str | None, now: str | None) -> bool:
    """Return true for equal fingerprints. Of an output of an earlier version `was` is `NAMES` alone."""
    return was == now or (was is not None and now is not None and now.startswith(f"{was}-"))


def input_difference(was: str | None, now: str | None) -> str:
    """Return two fingerprints, and in words where their contents alone differ."""
    same_names = was and now and was.partition("-")[0] == now.partition("-")[0]
    note = ": its content has changed, not its names and sizes or what it was made by" if same_names else ""
    return f"{was!r} -> {now!r}{note}"


def _short(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
