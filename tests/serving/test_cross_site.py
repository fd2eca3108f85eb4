"""Web pages of other sites: which names the endpoint has, which pages may send, and what they may send."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rrad_ray.config import ServeConfig
from rrad_ray.serving.cross_site import check_caller, is_served
from rrad_ray.serving.errors import HTTPError

CLOSED: dict[str, Any] = {"host": "0.0.0.0", "api_keys": "keys"}


def status(method: str = "POST", options: dict[str, Any] | None = None, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {"host": "localhost:8000", "content-type": "application/json", **named}
    try:
        check_caller(method, fields, ServeConfig("winner", **(options or {})))
    except HTTPError as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "10.1.2.3", "a.localhost"]
)
def test_a_keyless_endpoint_of_this_machine_is_called_localhost_or_by_an_address(host: str) -> None:
    assert status(host=host) == status("GET", host=host) == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[", ":80"])
def test_no_name_that_others_can_have_resolve_to_this_machine_is_one_of_it(host: str) -> None:
    assert status(host=host) == status("GET", host=host) == 403
    assert status(options=CLOSED, host=host) == status(options={"open": True}, host=host) == 200, "keys are asked for"
    assert status(options={**CLOSED, "hosts": ("rank.example", "*.internal")}, host=host) == 403


def test_a_name_that_is_longer_than_names_can_be_is_refused_and_not_remembered() -> None:
    is_served.cache_clear()
    for number in range(20):
        assert (
            status(host=f"{number}{'a' * 300}") == status(options={"open": True}, host=f"{number}{'a' * 300}") == 403
        )
    assert is_served.cache_info().currsize == 0, "a thousand of them, of 200 KB each, would fill the memory"
    assert status(host=f"{'a' * 243}.localhost:8000") == 200


def test_named_hosts_alone_are_served_and_addresses_for_probes() -> None:
    named = {**CLOSED, "hosts": ("rank.example", "*.internal")}
    for host in ("rank.example", "rank.example:443", "Rank.Example", "a.internal", "10.1.2.3:8000", ""):
        assert status(options=named, host=host) == 200
    assert status(options=named, host="localhost") == 403


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),
        ({"origin": "http://localhost:8000"}, 200),
        ({"origin": "http://localhost:9000"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://search.example", "sec_fetch_site": "same-origin"}, 200),  # a proxy has changed Host
        ({"origin": "https://evil.example", "sec_fetch_site": "cross-site"}, 403),
        ({"origin": "https://shop.example"}, 200),
    ],
    ids=str,
)
def test_a_page_may_send_if_it_is_the_endpoints_own_or_named(headers: dict[str, str], expected: int) -> None:
    assert status(options={"cors_origins": ("https://shop.example",)}, **headers) == expected
    assert status("GET", **headers) == 200, "a browser keeps the answer from pages of other origins"
    assert status(options={"cors_origins": ("*",)}, **headers) == 200


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("text/plain; application/json", 415),
        ("", 415),  # a page can leave it out
    ],
)
def test_what_a_form_can_send_is_no_request(kind: str, expected: int) -> None:
    assert status(content_type=kind) == expected
    assert status("GET", content_type=kind) == 200


@given(st.text(max_size=30), st.booleans())
def test_any_text_is_a_host_or_none(host: str, anyone: bool) -> None:
    assert is_served(host, (), anyone) or not anyone


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "rank.example", ""])
def test_a_host_that_other_machines_reach_needs_keys_or_a_word(host: str) -> None:
    with pytest.raises(ValidationError, match="set api_keys, or open=true"):
        ServeConfig("winner", host=host)
    for options in ({"api_keys": "keys"}, {"open": True}):
        assert ServeConfig("winner", host=host, **options).host == host
    for local in ("127.0.0.1", "127.1.2.3", "localhost", "::1"):
        assert ServeConfig("winner", host=local).host == local
