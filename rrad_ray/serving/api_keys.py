"""Who may ask the endpoint: bearer keys, one a line of a file that is read again while it serves."""

from __future__ import annotations

import hashlib
import hmac

from rrad_ray import tables
from rrad_ray.errors import RradError


class ApiKeys:
    """The keys of a file, local or `s3://`. Lines that are blank or begin with `#` are none. Only digests are held: a
    key is in no log, traceback or memory dump of ours.

    Raises `RradError` for a file that cannot be read or holds no key: an endpoint that is meant to be closed does not
    open because of an empty file.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.digests: list[bytes] = []
        self.refresh()

    def refresh(self) -> None:
        """Reads the file again; the keys that it holds now are the only ones. Raises as the constructor, and then
        those of before stay."""
        lines = (line.strip() for line in tables.read_text(self.uri).splitlines())
        digests = [_digest(line) for line in lines if line and not line.startswith("#")]
        if not digests:
            raise RradError(self.uri, "holds no key", "write one key on each line, or set api_keys to nothing")
        self.digests = digests

    def allow(self, authorization: str) -> bool:
        """Whether an `Authorization` header carries one of the keys. As long for a wrong key as for a right one."""
        scheme, _, key = authorization.strip().partition(" ")
        asked = _digest(key.strip())
        found = [hmac.compare_digest(asked, digest) for digest in self.digests]
        return scheme.lower() == "bearer" and any(found)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
