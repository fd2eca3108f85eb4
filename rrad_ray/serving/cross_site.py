"""Web pages of other sites are kept away from the endpoint, and browsers get told what its answers are.

A page that a user visits can send requests from within their network. It reads their answers if its own name resolves
to the endpoint's address (DNS rebinding): so names are checked. Requests whose answers it cannot read have effects
still: so where they come from is checked, and what a form can send is refused.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from rrad_ray.config import ServeConfig
from rrad_ray.serving.errors import SHOWN_CHARS, HTTPError

JSON = "application/json"

MAX_HOST_CHARS = 300  # a name has 253 at most (RFC 1035), and a port behind it

# Of each answer that does not have its own.
HARDENED = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def check_caller(method: str, headers: Mapping[str, str], cfg: ServeConfig) -> None:
    """Refuse a request by what a web page cannot choose.

    Raises `HTTPError`: 403 for a host that is none of the endpoint's names, and for a POST of a page of another
    origin; 415 for a POST of anything but JSON, which a page could send without asking.
    """
    host = headers.get("host", "")
    known = len(host) <= MAX_HOST_CHARS and is_served(host, cfg.hosts, anyone=bool(cfg.api_keys) or cfg.open)
    if host and not known:
        raise HTTPError(403, "host", f"{host[:SHOWN_CHARS]} is no name of this endpoint; add it to hosts")
    if method != "POST":
        return
    origin = headers.get("origin", "")
    if origin and not _may_send(origin, host, headers.get("sec-fetch-site", ""), cfg.cors_origins):
        raise HTTPError(403, "origin", f"{origin[:SHOWN_CHARS]} is another site; add it to cors_origins")
    kind = headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != JSON:
        problem = f"send 'Content-Type: {JSON}', found {kind[:SHOWN_CHARS] or 'none'}"
        raise HTTPError(415, "content-type", problem, {"Accept": JSON})


@functools.lru_cache(maxsize=1024)
def is_served(host: str, hosts: tuple[str, ...], anyone: bool) -> bool:
    """Return whether a request's header `Host` is an address or one of the names.

    Without names, `anyone` allows all of them, and otherwise localhost alone is one. Whoever has a site can have its
    name resolve to this machine, but no address can be made to mean another.
    """
    if not hosts and anyone:
        return True
    name = ""
    with contextlib.suppress(ValueError):
        name = urlsplit(f"//{host}").hostname or ""
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return any(fnmatch.fnmatchcase(name, known) for known in hosts or ("localhost", "*.localhost"))


def _may_send(origin: str, host: str, site: str, allowed: tuple[str, ...]) -> bool:
    """Return whether a page of this origin may send requests: the endpoint's own, or one that `cors_origins` names.

    Browsers say (`Sec-Fetch-Site`) that a page is the endpoint's, also behind a proxy that changes `Host`.
    """
    return "*" in allowed or origin in allowed or site == "same-origin" or origin.partition("//")[2] == host
