"""Signed exposures: which tokens are of a test's own pages."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.errors import RradError
from rrad_ray.online.signatures import ExposureSigner

SECRET, PAGE = "s" * 32, "0123456789abcdef" * 2
SIGNER = ExposureSigner(SECRET, "test")


@given(st.text(max_size=20), st.floats(0, 2.0**32))
def test_a_token_names_its_page_unit_and_second(unit: str, time: float) -> None:
    token = SIGNER.sign(PAGE, unit, time)
    page = SIGNER.verify(token)
    assert page is not None
    assert (page.request_id, page.time, page.unit_digest) == (PAGE, int(time), SIGNER.unit_digest(unit))
    assert len(token) <= 256, "an id of the wire format"
    assert ExposureSigner(SECRET, "another test").verify(token) is None
    assert ExposureSigner("t" * 32, "test").verify(token) is None


@given(st.data())
def test_a_token_that_is_changed_anywhere_is_none(data: st.DataObject) -> None:
    token = SIGNER.sign(PAGE, "ann", 1.7e9)
    index = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters().filter(lambda letter: letter != token[index]))
    assert SIGNER.verify(token[:index] + other + token[index + 1 :]) is None
    assert SIGNER.verify(token[:index]) is None


@given(st.text() | st.from_regex(r"[0-9a-f]{32}\\.[0-9a-f]{8}\\.[0-9a-f]{16}\\.[0-9a-f]{32}", fullmatch=True))
def test_any_other_text_is_no_token(text: str) -> None:
    assert SIGNER.verify(text) is None


def test_a_secret_is_a_file_of_enough_characters(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    assert ExposureSigner.read(str(file), "test").salt == SIGNER.salt
    file.write_text("short")
    with pytest.raises(RradError, match=r"a secret of 5 characters, at least 32 are needed; .*openssl rand"):
        ExposureSigner.read(str(file), "test")
    with pytest.raises(RradError, match="secret"):
        ExposureSigner.read(str(tmp_path / "none"), "test")
