"""Bearer keys: which header is let in, and how the keys change while the endpoint serves."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Any

import pytest

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


def test_keys_are_rotated_and_a_file_that_went_bad_changes_nothing(file: Path) -> None:
    keys = ApiKeys(str(file))
    file.write_text("third-key\n")
    keys.refresh()
    assert (keys.allow("Bearer third-key"), keys.allow("Bearer first-key")) == (True, False)
    for content in ("", "# none\n"):
        file.write_text(content)
        with pytest.raises(RradError, match="holds no key"):
            keys.refresh()
    file.unlink()
    with pytest.raises(RradError):
        keys.refresh()
    assert keys.allow("Bearer third-key")


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
