"""Folders that other users could write to are refused, and those that are made are private."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from rrad_ray.errors import RradError
from rrad_ray.tables import private_folders
from rrad_ray.tables.private_folders import (
    private_folder,
    scratch_folder,
    sessions_folder,
    socket_folder,
    state_folder,
)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_folder_that_is_made_is_private_and_one_that_is_safe_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "new" / "folder")
    assert mode(folder) == 0o700
    folder.chmod(0o755)
    assert private_folder(folder) == folder
    assert mode(folder) == 0o755, "others may read names; no file in it is theirs"
    (tmp_path / "link").symlink_to(folder)
    assert private_folder(tmp_path / "link").is_dir()


@pytest.mark.parametrize("bits", [0o777, 0o1777, 0o775, 0o702])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, bits: int) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(bits)
    with pytest.raises(RradError, match=rf"folder: other users may write to it \(mode {bits:04o}\); chmod 700"):
        private_folder(tmp_path / "folder")


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(RradError, match=rf"belongs to another user \(uid {uid}\); name another folder"):
        private_folder(tmp_path / "folder")


def test_a_folder_that_everyone_could_rename_is_refused_but_in_a_volume_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_folders, "_in_container", lambda: False)
    above, folder = tmp_path / "above", tmp_path / "above" / "new" / "folder"
    above.mkdir()
    above.chmod(0o1777)
    private_folder(folder)
    above.chmod(0o777)
    with pytest.raises(RradError, match=r"everyone may rename it \(mode 0777\); chmod \+t .*above, or name a folder"):
        private_folder(folder)
    (tmp_path / "link").symlink_to(above)
    with pytest.raises(RradError, match="everyone may rename it"):
        private_folder(tmp_path / "link" / "new" / "folder")
    (above / "link").symlink_to(tmp_path)  # which everyone could replace
    with pytest.raises(RradError, match="everyone may rename it"):
        private_folder(above / "link" / "new")
    monkeypatch.setattr(private_folders, "_in_container", lambda: True)
    own = private_folders._is_its_own
    for its_own in (True, False):
        monkeypatch.setattr(private_folders, "_is_its_own", lambda path, its_own=its_own: its_own and own(path))
        with nullcontext() if its_own else pytest.raises(RradError, match="everyone may rename it"):
            private_folder(folder)
    monkeypatch.setattr(private_folders, "_in_container", lambda: False)
    monkeypatch.setattr(private_folders, "_is_its_own", own)
    with pytest.raises(RradError, match="everyone may rename it"):
        private_folder(folder)


def test_a_file_and_a_path_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RradError, match="is no folder"):
        private_folder(tmp_path / "file")
    with pytest.raises(RradError, match=r"cannot be used .*name a folder that can be made"):
        private_folder(tmp_path / "file" / "below")


def test_state_is_below_xdg_state_home_or_in_a_folder_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir(mode=0o777)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert state_folder() == tmp_path / "state" / "rrad-ray"
    own = tmp_path / "tmp" / f"rrad-ray-{os.geteuid()}"
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert state_folder() == own
        assert mode(own) == 0o700
    own.chmod(0o777)
    with pytest.raises(RradError, match="other users may write to it"):
        state_folder()


def test_a_folder_of_sockets_is_looked_into_by_nobody_else_and_below_xdg_runtime_dir_where_that_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, temporary = tmp_path / "run", tmp_path / "tmp"
    run.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(temporary))
    for runtime, parent in ((run, run), (tmp_path / "gone", temporary), ("", temporary)):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        folder = parent / f"rrad-haproxy-{os.geteuid()}"
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)  # as Ray makes it
        assert socket_folder("haproxy") == folder
        assert mode(folder) == 0o700
    folder.chmod(0o777)
    with pytest.raises(RradError, match="other users may write to it"):
        socket_folder("haproxy")


def test_sessions_of_ray_are_below_a_folder_that_nobody_else_can_look_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    for chosen, parent in (("", tmp_path / "tmp"), (str(tmp_path / "large"), tmp_path / "large")):
        monkeypatch.setenv("RAY_TMPDIR", chosen)
        above = parent / f"rrad-ray-{os.geteuid()}"
        above.mkdir(mode=0o755, parents=True)
        assert sessions_folder() == above / "ray"
        assert mode(above) == 0o700
    above.chmod(0o777)
    with pytest.raises(RradError, match="other users may write to it"):
        sessions_folder()


HOLDER = """
import sys, time
from rrad_ray.tables.private_folders import scratch_folder
with scratch_folder() as folder:
    (folder / "checkpoint").write_bytes(bytes(1000))
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_scratch_goes_with_its_block_and_that_of_a_killed_process_as_another_one_asks_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    holders = [subprocess.Popen([sys.executable, "-c", HOLDER], **pipes) for _ in range(2)]
    killed, alive = (Path(holder.stdout.readline().strip()) for holder in holders)
    holders[0].send_signal(signal.SIGKILL)
    holders[0].wait()
    assert (killed / "checkpoint").exists(), "a kill leaves it behind"
    with scratch_folder() as own:
        assert list(own.iterdir()) == []
        assert not killed.exists()
        assert (alive / "checkpoint").exists()
    holders[1].communicate()
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {f"rrad-ray-{os.geteuid()}/scratch/lock"}


def test_scratch_goes_while_no_other_process_looks_which_folders_are_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    deleted = []

    def delete(folder: Path) -> None:
        with (folder.parent / "lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        deleted.append(folder)

    with scratch_folder() as own:
        monkeypatch.setattr(shutil, "rmtree", delete)
    assert deleted == [own.parent]
