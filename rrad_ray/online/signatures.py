"""Signed exposures: whoever has not been shown a page cannot click on it, nor choose which units see which variant.

An exposure's token is `ID.TIME.UNIT.MAC`: the page's id, its time in seconds since 1970 (hexadecimal), a digest of
its unit and a MAC of all that, both HMAC-SHA256 (RFC 2104) with a key that is derived from the secret and the test's
name. So a token can be checked by every replica, and none is good in another test.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass

from rrad_ray import tables
from rrad_ray.errors import RradError

LEAST_CHARS = 32  # of a secret
TOKEN = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{1,9})\.([0-9a-f]{16})\.([0-9a-f]{32})")


@dataclass(frozen=True)
class SignedPage:
    """A page as its token names it: its id, its time in seconds since 1970 and the digest of its unit."""

    request_id: str
    time: float
    unit_digest: str


class ExposureSigner:
    """The secret of an online test: what signs its exposures, and the `salt` of its assignment."""

    def __init__(self, secret: str, test: str) -> None:
        self.key = _derived(secret.encode(), f"exposures of {test}")
        self.salt = _derived(secret.encode(), f"assignment of {test}")

    @classmethod
    def read(cls, uri: str, test: str) -> ExposureSigner:
        """Return the signer with the secret in a file. Raises `RradError` for one that is not there or short."""
        with tables.io_errors(uri):
            secret = tables.read_text(uri).strip()
        if len(secret) < LEAST_CHARS:
            problem = f"a secret of {len(secret)} characters, at least {LEAST_CHARS} are needed"
            raise RradError(uri, problem, "write one by `openssl rand -hex 32`, and keep it for the whole test")
        return cls(secret, test)

    def sign(self, request_id: str, unit: str, time: float) -> str:
        """Return the token of a page."""
        body = f"{request_id}.{int(time):x}.{self.unit_digest(unit)}"
        return f"{body}.{self._mac(body)}"

    def verify(self, token: str) -> SignedPage | None:
        """Return the page of a token; None for one that this test has not signed."""
        match = TOKEN.fullmatch(token)
        if match is None or not hmac.compare_digest(self._mac(token.rpartition(".")[0]), match[4]):
            return None
        return SignedPage(match[1], float(int(match[2], 16)), match[3])

    def unit_digest(self, unit: str) -> str:
        """Return the digest of a unit, 64 bits in hexadecimal."""
        return _derived(self.key, f"unit {unit}")[:8].hex()

    def _mac(self, body: str) -> str:
        return _derived(self.key, f"page {body}")[:16].hex()


def _derived(key: bytes, purpose: str) -> bytes:
    return hmac.digest(key, purpose.encode(errors="surrogatepass"), "sha256")
