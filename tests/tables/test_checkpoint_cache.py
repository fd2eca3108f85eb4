"""Downloads of checkpoints: below their folder, whole, of one state, and not kept for ever."""

from __future__ import annotations

import os
import pickle
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest

from rrad_ray import tables
from rrad_ray.errors import RradError
from rrad_ray.tables import checkpoint_cache, checkpoints


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The cache's folder; nothing may be written elsewhere below `tmp_path`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a" / "cache"))
    yield tmp_path / "a" / "cache" / "rrad-ray"
    assert [path.name for path in tmp_path.iterdir()] in (["a"], [])


def put(uri: str, name: str, text: str) -> None:
    """Write an object under a key that no path of a file system has."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).put_object(
        Bucket=bucket, Key=f"{key}/{name}", Body=text.encode()
    )


def checkpoint(uri: str, text: str = "one") -> str:
    tables.write_text(f"{uri}/config.json", "{}")
    tables.write_text(f"{uri}/model.safetensors", text)
    return uri


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize(
    "name", ["../../../x", "sub/../../x", "/tmp/rrad-x", "/x", "a//b", "a/./b", ".rrad-sha256.json"]
)
def test_an_object_whose_name_leads_elsewhere_is_refused_by_its_name_and_nothing_is_written(
    name: str, s3_uri: str, folder: Path
) -> None:
    checkpoint(s3_uri)
    put(s3_uri, name, "mine")
    with pytest.raises(RradError, match="no name of a model's file") as caught:
        checkpoints.resolve(s3_uri)
    assert caught.value.place == f"{s3_uri}/{name}"
    assert left(folder) == []
    assert not Path("/tmp/rrad-x").exists()


def test_marks_of_folders_are_no_files(s3_uri: str, folder: Path) -> None:
    checkpoint(s3_uri)
    put(s3_uri, "sub/", "")
    names = sorted(os.listdir(checkpoints.resolve(s3_uri)))
    assert names == [checkpoint_cache.DIGESTS, "config.json", "model.safetensors"]


def test_an_object_that_comes_short_is_no_checkpoint(
    s3_uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tables.filesystem(s3_uri)[0]  # one object for all who ask with these options
    monkeypatch.setattr(store, "get_file", lambda key, path: Path(path).write_bytes(store.cat_file(key)[:2]))
    with pytest.raises(RradError, match="2 bytes came of the 3 that the store lists") as caught:
        checkpoints.resolve(checkpoint(s3_uri))
    assert caught.value.place == f"{s3_uri}/model.safetensors"
    assert left(folder) == []


def test_a_checkpoint_that_would_fill_the_disk_is_refused_before_a_byte_of_it_comes(
    s3_uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(s3_uri, "weights" * 10)  # 72 bytes, with the config's
    monkeypatch.setattr(checkpoint_cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=79))
    with pytest.raises(RradError, match=r"has 72 bytes, and 79 are free in .*free some space") as caught:
        checkpoints.resolve(s3_uri)
    assert (caught.value.place, left(folder)) == (s3_uri, [])
    monkeypatch.setattr(checkpoint_cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=80))
    assert os.listdir(checkpoints.resolve(s3_uri))


def test_a_checkpoint_that_is_written_anew_meanwhile_is_not_kept_half_and_half(
    s3_uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(s3_uri)
    store = tables.filesystem(s3_uri)[0]
    genuine = store.get_file

    def meanwhile(key: str, path: str) -> None:
        genuine(key, path)
        checkpoint(s3_uri, "two")  # of the same size

    with monkeypatch.context() as patch:
        patch.setattr(store, "get_file", meanwhile)
        with pytest.raises(RradError, match="has changed while it was downloaded"):
            checkpoints.resolve(s3_uri)
    assert left(folder) == []
    assert Path(checkpoints.resolve(s3_uri), "model.safetensors").read_text() == "two"


def test_a_download_whose_file_has_changed_since_is_refused_until_it_is_deleted(s3_uri: str, folder: Path) -> None:
    weights = Path(checkpoints.resolve(checkpoint(s3_uri)), "model.safetensors")
    weights.write_text("eno")  # of the same size
    with pytest.raises(RradError, match=f"its SHA-256 is .*; delete {weights.parent}: it is made again") as caught:
        checkpoints.resolve(s3_uri)
    assert caught.value.place == str(weights)
    shutil.rmtree(weights.parent)
    assert Path(checkpoints.resolve(s3_uri), "model.safetensors").read_text() == "one"


def test_a_download_of_an_earlier_version_which_has_no_digests_is_brought_again(s3_uri: str, folder: Path) -> None:
    weights = Path(checkpoints.resolve(checkpoint(s3_uri)), "model.safetensors")
    (weights.parent / checkpoint_cache.DIGESTS).unlink()
    weights.write_text("eno")
    assert checkpoints.resolve(s3_uri) == str(weights.parent)
    assert weights.read_text() == "one"
    assert left(folder) == [weights.parent.name]


def test_downloads_that_nobody_asks_for_are_deleted_and_the_newest_and_those_in_use_stay(
    s3_uri: str, folder: Path
) -> None:
    day, names = time.time() - 86_400, []

    def another(number: int) -> list[int]:
        """Download another checkpoint, long ago; return the numbers of those that are kept."""
        names.append(checkpoints.resolve(checkpoint(s3_uri, f"{number}")))
        os.utime(names[-1], (day + number, day + number))
        return [number for number, name in enumerate(names) if Path(name).exists()]

    assert [another(number) for number in range(5)][2:] == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    dead, alive = checkpoint_cache.scratch(), checkpoint_cache.scratch()
    os.utime(dead, (day - 1, day - 1))
    for number in (2, 3, 4):  # by endpoints, which ask for their own again and again
        assert checkpoints.resolve(checkpoint(s3_uri, f"{number}")) == names[number]
    assert another(5) == [2, 3, 4, 5]
    assert (Path(dead).exists(), Path(alive).exists()) == (False, True)


def test_what_another_process_puts_into_its_place_meanwhile_is_passed_over(
    s3_uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others, genuine = Path(checkpoint_cache.scratch()), Path.is_dir

    def is_dir(path: Path) -> bool:
        if path == others and genuine(path):
            others.rmdir()
            return True
        return genuine(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    downloaded = checkpoints.resolve(checkpoint(s3_uri))
    assert left(folder) == [Path(downloaded).name]


def test_the_cache_is_private_and_one_that_others_may_write_to_is_refused(folder: Path) -> None:
    assert stat.S_IMODE(checkpoint_cache.cache_folder().stat().st_mode) == 0o700
    folder.chmod(0o777)
    with pytest.raises(RradError, match="other users may write to it"):
        checkpoint_cache.cache_folder()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, b"x") for name in ("pytorch_model.bin", "2_Dense/pytorch_model.bin", "lm_head.pt")),
        ("model-1.dat", pickle.dumps({"weight": 1})),  # as an index of shards may call it
        ("model-1.safetensors", b"PK\x03\x04, as torch.save writes it"),
    ],
    ids=str,
)
def test_an_endpoint_takes_no_pickle_from_a_store(
    name: str, content: bytes, s3_uri: str, folder: Path, tmp_path: Path
) -> None:
    assert checkpoints.resolve_served(checkpoint(s3_uri)) == checkpoints.resolve(s3_uri)
    tables.write_bytes(f"{s3_uri}/{name}", content)
    with pytest.raises(RradError, match=r"it comes from a store and holds pickles") as caught:
        checkpoints.resolve_served(s3_uri)
    assert (caught.value.place, "safetensors" in caught.value.remedy) == (s3_uri, True)
    local = checkpoints.resolve(s3_uri)  # training may start from it, and a local folder is its user's own
    assert checkpoints.resolve_served(local) == local


def test_a_model_that_may_change_behind_its_name_has_a_revision(s3_uri: str, folder: Path, tmp_path: Path) -> None:
    """A run that goes on says so where it is another one than before: half of its rows are by each."""
    first = checkpoints.revision(checkpoints.resolve(checkpoint(s3_uri)))
    assert first == checkpoints.revision(checkpoints.resolve(s3_uri))
    assert checkpoints.revision(checkpoints.resolve(checkpoint(s3_uri, "two"))) != first
    assert list(first) == ["model"]
    assert checkpoints.revision("hub/models--a--b/snapshots/4f5e") == {"model": "4f5e"}
    assert checkpoints.revision(str(tmp_path)) == {}


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "0_Transformer/tokenizer_config.json"])
def test_a_tokenizer_that_loads_programs_is_not_taken_from_a_store(name: str, s3_uri: str, folder: Path) -> None:
    checkpoint(s3_uri)
    tables.write_text(f"{s3_uri}/{name}", '{"tokenizer_class": "Bert\\u004aapaneseTokenizer", "sudachi_kwargs": {}}')
    with pytest.raises(RradError, match="names BertJapanese, which loads programs of this machine") as caught:
        checkpoints.resolve(s3_uri)
    assert caught.value.place == f"{s3_uri}/{name}"
    assert left(folder) == []
    local = folder.parent / "local"
    for file in ("config.json", name):  # a name that comes from a store's winner.json
        tables.write_text(f"{local}/{file}", tables.read_text(f"{s3_uri}/{file}"))
    with pytest.raises(RradError, match="names BertJapanese"):
        checkpoints.resolve_served(str(local))


def test_files_that_are_read_whole_have_a_bound(s3_uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(s3_uri)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_cache, "MOST_CONFIG_BYTES", 1)
        with pytest.raises(RradError, match=r"config\.json: has 2 bytes, which no config has"):
            checkpoints.resolve(s3_uri)
    monkeypatch.setattr(checkpoints, "MOST_WINNER_BYTES", 1)
    tables.write_text(f"{s3_uri}/winner.json", '{"checkpoint": ""}')
    with pytest.raises(RradError, match=r"winner\.json: has more than 1 bytes"):
        checkpoints.resolve(s3_uri)


def test_what_torch_compiles_is_kept_where_nobody_else_puts_programs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", "/the/users/own")
    checkpoint_cache.keep_compiled_apart()
    kept = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert (kept.parent, stat.S_IMODE(kept.stat().st_mode)) == (folder, 0o700)
    assert os.environ["TRITON_CACHE_DIR"] == "/the/users/own"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
