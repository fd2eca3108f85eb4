"""Bearer keys of the endpoint's clients: a file of one key a line, which is read again while the endpoint serves."""

from __future__ import annotations

import hashlib
import hmac

from rrad_ray import tables
from rrad_ray.errors import RradError


class ApiKeys:
    """The keys in a file, local or `s3://`; blank lines and lines that begin with `#` are ignored.

    Only digests are kept, so that no key is in a log, a traceback or a memory dump of ours. Raises `RradError` for a
    file that cannot be read or holds no key: an endpoint that is meant to be closed must not open because of an empty
    file.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.digests: list[bytes] = []
        self.refresh()

    def refresh(self) -> None:
        """Read the file again and accept only the keys that it holds now.

        Raises as the constructor does; the keys from before then stay valid.
        """
        lines = (line.strip() for line in tables.read_text(self.uri).splitlines())
        digests = [_digest(line) for line in lines if line and not line.startswith("#")]
        if not digests:
            raise RradError(self.uri, "holds no key", "write one key on each line, or set api_keys to nothing")
        self.digests = digests

    def allow(self, authorization: str) -> bool:
        """Return whether an `Authorization` header carries one of the keys, in a time that does not depend on it."""
        scheme, _, key = authorization.strip().partition(" ")
        digest = _digest(key.strip())
        matches = [hmac.compare_digest(digest, known) for known in self.digests]  # all of them: no early exit
        return scheme.lower() == "bearer" and any(matches)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
