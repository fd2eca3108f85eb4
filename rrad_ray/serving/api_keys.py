"""Bearer keys of the endpoint's clients: a file of one key a line, which is read again while the endpoint serves."""

from __future__ import annotations

import hashlib
import hmac
import re

from rrad_ray import tables
from rrad_ray.errors import RradError

KEY = re.compile(r"[!-~]+")  # visible ASCII: clients encode anything else in a header each in their own way
_REMEDY = "write one key on each line, or set api_keys to nothing"


class ApiKeys:
    """The keys in a file, local or `s3://`, in visible ASCII.

    Blank lines, lines that begin with `#`, a byte order mark and keys that come again are ignored. Only digests are
    kept, so that no key is in a log, a traceback or a memory dump of ours. Raises `RradError` for a file that cannot
    be read, holds no key, or has a line that is none: an endpoint that is meant to be closed must not open because of
    an empty file.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.digests: list[bytes] = []
        self.refresh()

    def refresh(self) -> None:
        """Read the file again and accept only the keys that it holds now, none if it is gone or empty.

        Raises as the constructor does. The keys from before stay valid where the file does not say which are: it
        cannot be read, or has a line that is no key.
        """
        if not tables.exists(self.uri):
            self.digests = []
            raise RradError(self.uri, "no such file, so no key is valid", _REMEDY)
        lines = [line.strip() for line in tables.read_text(self.uri).splitlines()]
        keys = {line: number for number, line in enumerate(lines, 1) if line and not line.startswith("#")}
        for key, number in keys.items():
            if not KEY.fullmatch(key):
                problem = "no key: a key is visible ASCII without spaces"
                raise RradError(f"{self.uri}:{number}", problem, "write comments on lines of their own")
        self.digests = list(map(_digest, keys))
        if not keys:
            raise RradError(self.uri, "holds no key, so none is valid", _REMEDY)

    def allow(self, authorization: str) -> bool:
        """Return whether an `Authorization` header carries one of the keys, in a time that does not depend on it."""
        scheme, _, key = authorization.strip().partition(" ")
        digest = _digest(key.strip())
        matches = [hmac.compare_digest(digest, known) for known in self.digests]  # all of them: no early exit
        return scheme.lower() == "bearer" and any(matches)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
