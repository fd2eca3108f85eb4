"""A collection by its URI: a BEIR folder, or the documentation of this Python environment."""

from __future__ import annotations

from rrad_ray.data.beir import read_beir
from rrad_ray.data.collection import Collection

PYDOC = "pydoc:"


def read_collection(data: str) -> Collection:
    """Return a collection: `pydoc:`, the documentation of the installed packages, or a BEIR folder, local or `s3://`.

    Raises `RradError` as `read_beir` does.
    """
    if data == PYDOC:
        from rrad_ray.data import pydoc_collection  # it needs this module's types

        return pydoc_collection.read_pydoc()
    return read_beir(data)
