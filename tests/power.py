"""A power cut, replayed: what is left of a folder when all is lost that was not synced."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


class Disk:
    """The disk under an empty folder, which learns of names and contents by `os.fsync` alone.

    It stands in for `os.fsync` and takes down what is synced: the content of a file, or the names in a folder. After
    each sync, when the power may go, it calls `after`.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, after: Callable[[], None] = lambda: None) -> None:
        self.folder, self.after = folder, after
        self.contents: dict[int, bytes] = {}  # of files, by inode
        self.names: dict[int, dict[str, tuple[int, bool]]] = {}  # of folders, by inode: inode and whether a folder
        self.handles: list[int] = []  # while these are open, the system gives no inode to another file
        patch.setattr(os, "fsync", self._fsync)

    def _fsync(self, handle: int) -> None:
        inode, path = os.fstat(handle).st_ino, Path(os.readlink(f"/proc/self/fd/{handle}"))
        self.handles.append(os.dup(handle))
        if path.is_dir():
            self.names[inode] = {entry.name: (entry.inode(), entry.is_dir()) for entry in os.scandir(path)}
        else:
            self.contents[inode] = path.read_bytes()
        self.after()

    def left(self, target: Path, *, all_names: bool = False) -> Path:
        """Write to `target` what a power cut leaves of the folder: the names and contents that were synced.

        `all_names`: names are not lost, contents are, as in a file system whose journal is for names alone.
        """
        shutil.rmtree(target, ignore_errors=True)
        if all_names:
            for path in [self.folder, *self.folder.rglob("*")]:
                self._put(target / path.relative_to(self.folder), path.stat().st_ino, path.is_dir())
        else:
            self._put_all(target, self.folder.stat().st_ino)
        return target

    def _put(self, path: Path, inode: int, is_folder: bool) -> None:
        if is_folder:
            path.mkdir(parents=True)
        else:
            path.write_bytes(self.contents.get(inode, b""))

    def _put_all(self, folder: Path, inode: int) -> None:
        folder.mkdir()
        for name, (below, is_folder) in self.names.get(inode, {}).items():
            if is_folder:
                self._put_all(folder / name, below)
            else:
                self._put(folder / name, below, False)

    def close(self) -> None:
        """Let the system have its inodes back."""
        for handle in self.handles:
            os.close(handle)
