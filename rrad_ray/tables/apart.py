"""The output of a stage stands apart from all that the stage reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from rrad_ray.errors import RradError
from rrad_ray.tables.files import absolute
from rrad_ray.uris import S3, is_s3

MODELS = ("model", "teacher")  # keys that may name a hub's model too

READ_KEYS = (
    "input",
    "data",
    "collected",
    "frozen",
    "fresh",
    "fresh_input",
    "store",
    "run",
    "runs",
    "qrels",
    "labels",
    "graded",
    "students",
    "teachers",
    "vectors",
    "query_vectors",
    "state",
    "more",
    "student",
    "pick.without",
    "models",
    *MODELS,
)  # the keys of all that stages read

ONCE = ("input", "more", "teachers")  # tables whose rows count, or whose scores weigh, once for each name

NO_PLACE = ("bundled:", "pydoc:")


def check_apart(cfg: Any) -> None:
    """Raise `RradError` for a config whose output is one of the places that it reads, or lies within or above one.

    Such a run would write its marks and parts among those of its input, and read them as rows of it the next time.
    Also raises `RradError` for an output on S3 with `//` in it, and for a table that is named twice.
    """
    _check_published(cfg)
    _check_once(cfg)
    output = getattr(cfg, "output", "")
    if is_s3(output) and "//" in output.removeprefix(S3).rstrip("/"):
        problem = "has '//' in it: to S3 that is another place, which nobody finds under the path with one slash"
        raise RradError(output, problem, "write one slash; a variable as `out` takes none at its end")
    for key, uri in read_places(cfg) if output else ():
        if key in MODELS and not is_s3(uri) and not os.path.isdir(absolute(uri)):
            continue  # the hub's
        if lies_within(output, uri):
            how = "lies within" if not lies_within(uri, output) else "is"
        elif lies_within(uri, output):
            how = "holds"
        else:
            continue
        raise RradError(output, f"the output {how} {key}={uri}", "choose an output beside what is read")


def _check_once(cfg: Any) -> None:
    """Raise `RradError` for a config that learns from one table under two names, however they are written."""
    names: dict[str, str] = {}
    for key, uri in read_places(cfg):
        if key.partition(".")[0] in ONCE and (first := names.setdefault(_real(uri), key)) != key:
            remedy = "name every table once: it would count twice"
            raise RradError(f"{key}={uri}", f"is the table that {first} names", remedy)


def _check_published(cfg: Any) -> None:
    """Raise `RradError` for a config whose `publish` is one of the places that it reads, or lies within one: it would
    replace the report there."""
    folder = getattr(cfg, "publish", "")
    for key, uri in read_places(cfg) if folder else ():
        if lies_within(folder, uri):
            remedy = "name a folder beside what is read, or leave publish out"
            raise RradError(f"publish={folder}", f"lies within {key}={uri}, whose report it would replace", remedy)


def lies_within(uri: str, folder: str) -> bool:
    """Return true for the folder itself and for what is below it, wherever links lead."""
    return f"{_real(uri)}/".startswith(f"{_real(folder)}/")


def _real(uri: str) -> str:
    """Return a place as it is to be compared, without a slash at its end."""
    return (uri if is_s3(uri) else os.path.realpath(absolute(uri))).rstrip("/")


def read_places(cfg: Any) -> Iterator[tuple[str, str]]:
    """Give the places that a config reads, with their keys; a hub's model is one below the working directory, where
    a step of a pipeline may have yet to make it."""
    for key in READ_KEYS:
        value = cfg
        for name in key.split("."):
            value = getattr(value, name, "")
        if isinstance(value, list):
            value = {str(number): uri for number, uri in enumerate(value)}
        named = {f"{key}.{name}": uri for name, uri in value.items()} if isinstance(value, Mapping) else {key: value}
        for name, uri in named.items():
            if uri and not uri.startswith(NO_PLACE):
                yield name, uri
