"""The token of Ray's clusters is a file that its user alone can read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ray._private.authentication import authentication_token_setup as of_ray

from rrad_ray.patches import ray_auth_token


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, which is not there yet, in a home folder that others may read."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (*ray_auth_token.OWN, "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".ray" / "auth_token"


def test_a_token_is_made_for_its_user_alone_and_one_that_ray_has_made_is_taken_from_others(token: Path) -> None:
    ray_auth_token.keep_private()
    own = token.read_text()
    assert (len(own), token.stat().st_mode & 0o777, token.parent.stat().st_mode & 0o777) == (64, 0o600, 0o700)
    token.unlink()
    umask = os.umask(0o022)
    try:
        of_ray.generate_and_save_token()
    finally:
        os.umask(umask)
    by_ray = token.read_text()
    assert token.stat().st_mode & 0o777 == 0o644, "Ray keeps it private by now: the patch can go"
    ray_auth_token.keep_private()
    assert (token.read_text(), token.stat().st_mode & 0o777) == (by_ray, 0o600)


@pytest.mark.parametrize(
    ("name", "value"), [("RAY_AUTH_TOKEN", "t"), ("RAY_AUTH_TOKEN_PATH", "/t"), ("RAY_AUTH_MODE", "disabled")]
)
def test_no_token_is_made_where_ray_uses_none_or_another_one(
    token: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    ray_auth_token.keep_private()
    assert not token.parent.exists()


def test_a_token_is_there_whole_or_not_at_all_and_of_two_runs_that_begin_at_once_both_take_the_first_ones(
    token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_run(count: int) -> str:
        assert not token.exists(), "another run would read a file without a token"
        token.write_text("the other's")
        return "ours"

    monkeypatch.setattr(ray_auth_token.secrets, "token_hex", other_run)
    ray_auth_token.keep_private()
    assert token.read_text() == "the other's"
    assert os.listdir(token.parent) == [token.name], "its own file was left behind"
