"""Folders on this machine that only the user who runs this process can write to."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rrad_ray.errors import RradError
from rrad_ray.tables.files import sync_names

LOCK = "lock"

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def private_folder(path: str | os.PathLike[str]) -> Path:
    """Return a folder that this user alone can write to; where there is none, it is made with mode 0700.

    Raises `RradError` for one that belongs to another user, or that others may write to: they could replace what is
    in it, or put there what would be taken for ours. The same for one below a folder in which everyone may rename
    what is others': they could put another one in its place.
    """
    folder = Path(path)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            sync_names(str(folder))  # a power cut would take all that is in it
        is_folder, mode = folder.is_dir(), folder.stat().st_mode
        owners = {folder.stat().st_uid, folder.lstat().st_uid}  # of the folder, and of a link to it
    except OSError as error:
        raise RradError(str(folder), f"cannot be used ({error})", "name a folder that can be made") from error
    if not is_folder:
        raise RradError(str(folder), "is no folder", "name a folder, or move the file away")
    if strangers := owners - {os.geteuid()}:
        remedy = "name another folder, such as one below it, which is then made"
        raise RradError(str(folder), f"belongs to another user (uid {min(strangers)})", remedy)
    if mode & OTHERS_WRITE:
        problem = f"other users may write to it (mode {stat.S_IMODE(mode):04o})"
        raise RradError(str(folder), problem, "chmod 700, or name a folder below it, which is then made")
    _check_above(folder)
    return folder


def _check_above(folder: Path) -> None:
    """Raise `RradError` for a folder that anyone on the machine could rename, as the sticky bit of /tmp forbids.

    In a container, its own folders are seen by itself alone, and the root of a volume (Kubernetes' emptyDir is open
    to all, without that bit) by those containers only that mount it.
    """
    for above in {*folder.resolve().parents, *folder.absolute().parents}:
        mode = above.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX and not (_in_container() and _is_its_own(above)):
            problem = f"is below {above}, in which everyone may rename it (mode {stat.S_IMODE(mode):04o})"
            raise RradError(str(folder), problem, f"chmod +t {above}, or name a folder elsewhere")


def _is_its_own(folder: Path) -> bool:
    return folder.is_mount() or folder.stat().st_dev == Path("/").stat().st_dev


def _in_container() -> bool:
    marks = ("/.dockerenv", "/run/.containerenv")
    return "KUBERNETES_SERVICE_HOST" in os.environ or any(map(os.path.exists, marks))


def cache_folder() -> Path:
    """Return the folder of converted and downloaded models, below XDG_CACHE_HOME where that is set.

    Raises `RradError` where other users may write to it.
    """
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return private_folder(Path(root) / "rrad-ray")


def state_folder() -> Path:
    """Return this user's private folder for what outlives a process: below XDG_STATE_HOME where that is set, else
    below the temporary folder."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):  # by the XDG specification, a relative one is to be ignored
        return private_folder(Path(state) / "rrad-ray")
    return _temporary_folder()


def _temporary_folder(parent: str = "") -> Path:
    return private_folder(Path(parent or tempfile.gettempdir()) / f"rrad-ray-{os.geteuid()}")


def socket_folder(name: str) -> Path:
    """Return a folder of this user's for sockets, which nobody else can look into: below XDG_RUNTIME_DIR where that
    can be used, else below the temporary folder. A socket's path has 107 bytes at most."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    usable = os.path.isabs(runtime) and os.access(runtime, os.W_OK | os.X_OK)
    folder = private_folder(Path(runtime if usable else tempfile.gettempdir()) / f"rrad-{name}-{os.geteuid()}")
    folder.chmod(0o700)  # earlier versions left it open to be looked into
    return folder


def sessions_folder() -> Path:
    """Return a folder for programs that open their own folders to everyone, as Ray does: nobody else can enter the
    folder above it. It is below RAY_TMPDIR where that is set, else below the temporary folder."""
    above = _temporary_folder(os.environ.get("RAY_TMPDIR", ""))
    above.chmod(0o700)
    return above / "ray"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give an empty folder for large files on this machine, which goes when the block ends. Those of processes that
    were killed go as another process asks for its own: a lock, which ends with its process, says that one is in
    use."""
    above = private_folder(_temporary_folder() / "scratch")
    with ExitStack() as in_use:
        with _locked(above / LOCK):
            for lock in above.glob(f"*/{LOCK}"):
                with suppress(BlockingIOError), _locked(lock, fcntl.LOCK_NB):
                    shutil.rmtree(lock.parent)
            own = Path(tempfile.mkdtemp(dir=above))
            in_use.enter_context(_locked(own / LOCK))
        in_use.callback(_delete, own)
        (own / "files").mkdir()
        yield own / "files"


def _delete(folder: Path) -> None:
    """Delete a folder of `scratch_folder` while no other process looks which ones are in use: it would meet one that
    is half gone, or make its lock anew."""
    with _locked(folder.parent / LOCK):
        shutil.rmtree(folder)


@contextmanager
def _locked(path: Path, flag: int = 0) -> Iterator[None]:
    """Hold the lock of a file, which is made where there is none. With `LOCK_NB`, raises `BlockingIOError` where
    another process holds it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | flag)
        yield
