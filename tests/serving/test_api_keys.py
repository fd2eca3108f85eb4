"""Bearer keys: which header is let in, and how the keys change while the endpoint serves."""

from __future__ import annotations

import contextlib
import hmac
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray import tables
from rrad_ray.errors import RradError
from rrad_ray.serving.api_keys import ApiKeys


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("# of the search team\nfirst-key\n\n  second-key  \n")
    return path


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("Bearer first-key", True),
        ("bearer  second-key ", True),
        ("Bearer first-ke", False),
        ("Bearer # of the search team", False),
        ("Basic first-key", False),
        ("first-key", False),
        ("Bearer ", False),
        ("", False),
    ],
)
def test_only_a_whole_key_with_its_scheme_is_let_in(file: Path, header: str, allowed: bool) -> None:
    assert ApiKeys(str(file)).allow(header) is allowed


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbffirst-key\nsecond-key\n",
        b"first-key\r\n\r\n# a comment\r\nsecond-key",
        b"first-key\rsecond-key",
        b"second-key\n\n\nfirst-key\nfirst-key\n\t second-key \t\n",
        b"# caf\xc3\xa9\n  # indented\nfirst-key\nsecond-key\n#",
    ],
)
def test_a_byte_order_mark_line_ends_comments_and_repeated_keys_change_nothing(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    keys = ApiKeys(str(file))
    assert [keys.allow(f"Bearer {key}") for key in ("first-key", "second-key", "", "#")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        (b"one\nkey # name\n", 2, "visible ASCII without spaces"),
        (b"one\n\ntwo\nBearer key\n", 4, "visible ASCII without spaces"),
        ("one\nschl\u00fcssel".encode(), 2, "visible ASCII without spaces"),
        ("one\nke\ufeffy".encode(), 2, "visible ASCII without spaces"),
        ("\u0663\u0663".encode(), 1, "visible ASCII without spaces"),
        (b"one\nk\x00ey", 2, "no UTF-8"),
        (b"one\nschl\xfcssel\n", 2, "no UTF-8"),
        ("one\n".encode("utf-16"), 1, "no UTF-8"),
    ],
)
def test_a_line_that_is_no_key_is_an_error_with_its_number_and_without_its_text(
    file: Path, content: bytes, line: int, problem: str
) -> None:
    file.write_bytes(content)
    with pytest.raises(RradError) as caught:
        ApiKeys(str(file))
    assert str(caught.value).startswith(f"{file}:{line}: no ")
    assert problem in str(caught.value)
    assert all(part not in str(caught.value) for part in ("schl", "name", "Bearer"))


@given(st.binary())
def test_any_bytes_are_keys_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any-keys"
    file.write_bytes(content)
    with contextlib.suppress(RradError):
        assert ApiKeys(str(file)).digests


@given(st.text(st.characters(codec="latin-1")))
def test_any_header_is_let_in_or_not(tmp_path_factory: pytest.TempPathFactory, header: str) -> None:
    file = tmp_path_factory.getbasetemp() / "one-key"
    file.write_text("only-key")
    assert not ApiKeys(str(file)).allow(f"Bearer {header}")


def test_keys_are_rotated_and_a_file_with_a_wrong_line_changes_nothing(file: Path) -> None:
    keys = ApiKeys(str(file))
    file.write_text("third-key\n")
    keys.refresh()
    assert (keys.allow("Bearer third-key"), keys.allow("Bearer first-key")) == (True, False)
    for content in (b"fourth-key\nthird key", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(RradError):
            keys.refresh()
        assert (keys.allow("Bearer third-key"), keys.allow("Bearer fourth-key")) == (True, False)


def test_with_a_file_that_is_gone_or_empty_no_key_is_valid_until_it_is_back(file: Path) -> None:
    keys = ApiKeys(str(file))
    file.unlink()
    with pytest.raises(RradError, match="no such file, so no key is valid"):
        keys.refresh()
    assert not keys.allow("Bearer first-key")
    file.write_text("third-key\n")
    keys.refresh()
    assert keys.allow("Bearer third-key")
    for content in ("", "# none\n", "\ufeff"):
        file.write_text(content)
        with pytest.raises(RradError, match="holds no key, so none is valid"):
            keys.refresh()
        assert not keys.allow("Bearer third-key")
        assert not keys.allow("Bearer ")


def test_a_store_that_cannot_be_reached_leaves_the_keys_as_they_are(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ApiKeys(str(file))

    def fail(*_: Any) -> None:
        raise RradError(str(file), "away", "wait")

    for name in ("read_text", "exists"):
        monkeypatch.setattr(tables, name, fail)
        with pytest.raises(RradError, match="away"):
            keys.refresh()
        assert keys.allow("Bearer first-key")


def test_every_key_is_compared_whichever_matches_and_none_is_held(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, seen = ApiKeys(str(file)), []
    compare = hmac.compare_digest

    def counting(one: Any, other: Any) -> bool:
        seen.append(other)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    for header in ("Bearer first-key", "Bearer wrong", "Basic first-key"):
        keys.allow(header)
    assert len(seen) == 6
    assert "first-key" not in repr(vars(keys))
