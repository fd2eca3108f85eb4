"""Headers that clients send, well formed or not, and those by which browsers let pages of other origins in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.serving import headers
from rrad_ray.serving.errors import HTTPError

ORIGIN = "https://shop.example"


def test_names_are_in_lower_case_values_are_text_and_what_comes_twice_is_a_list() -> None:
    raw = [
        (b"X-Unit", "caf\u00e9".encode()),
        (b"accept", b"a"),
        (b"Accept", b"b"),
        (b"old", "caf\u00e9".encode("latin-1")),
    ]
    assert headers.read_headers(raw) == {"x-unit": "caf\u00e9", "accept": "a, b", "old": "caf\u00e9"}


@given(st.lists(st.tuples(st.binary(), st.binary())))
def test_any_bytes_are_headers(raw: list[tuple[bytes, bytes]]) -> None:
    assert all("".join(pair).isprintable() is not None for pair in headers.read_headers(raw).items())


@given(st.integers(min_value=0, max_value=10**15 - 1), st.booleans())
def test_a_whole_number_is_decimal_digits(number: int, padded: bool) -> None:
    assert headers.whole_number(f"{number:015}" if padded else str(number)) == number


@given(st.text() | st.text("0123456789\u0663\u00b2\uff15-+_. e"))
def test_no_text_is_a_number_that_fails(text: str) -> None:
    number = headers.whole_number(text)
    assert number is None or (text.isascii() and int(text) == number)


@pytest.mark.parametrize("value", ["", "1500", "999999999"])
def test_a_deadline_is_the_endpoints_own_or_earlier(value: str) -> None:
    assert headers.timeout_s({"x-deadline-ms": value}, 10.0) == (1.5 if value == "1500" else 10.0)


@pytest.mark.parametrize(
    "value", ["soon", "-1", "1.5", "1e3", "5, 7", "\u00b2", "\u0663", "\uff15", "9" * 16, "9" * 5000]
)
def test_a_deadline_that_is_no_number_is_refused_and_shown_cut(value: str) -> None:
    with pytest.raises(HTTPError, match="must be milliseconds, found ") as caught:
        headers.timeout_s({"x-deadline-ms": value}, 10.0)
    assert (caught.value.status, caught.value.field) == (422, "x-deadline-ms")
    assert len(caught.value.detail) < 120


@pytest.mark.parametrize(
    ("allowed", "origin", "expected"),
    [
        ((), ORIGIN, None),
        ((ORIGIN,), ORIGIN, ORIGIN),
        ((ORIGIN,), "https://other.example", None),
        ((ORIGIN,), "", None),
        ((ORIGIN, "*"), "https://other.example", "*"),
    ],
)
def test_a_page_reads_answers_where_the_config_has_its_origin(
    allowed: tuple[str, ...], origin: str, expected: str | None
) -> None:
    sent = headers.cors_headers(origin, allowed)
    assert sent.get("Access-Control-Allow-Origin") == expected
    assert ("Vary" in sent) == (allowed == (ORIGIN,)), "a cache in between must not give one origin's to another"
