"""A checkpoint's model and tokenizer, whole or not at all, and the tokens that it takes.

transformers draws weights at random that a checkpoint lacks or has in another shape, and leaves layers out that its
config does not count; it says so in its log only. It makes up a tokenizer of a few tokens where the files of one are
missing. And a tokenizer's limit says nothing of the model's positions. So every model and every tokenizer is loaded
here.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import is_accelerate_available

from rrad_ray.errors import InvalidInput
from rrad_ray.patches import transformers_cls_only

# Modules that hold one vector for each position. Names such as `distance_embedding` are of distances: no limit.
POSITIONS = ("position_embeddings", "position_embedding", "embed_positions", "wpe")

LONGEST = 10**8  # a larger limit is how tokenizers write that they have none (1e30)

UNKNOWN_LENGTH = 512  # of a model for which neither tokenizer nor config names a limit

SHOWN_NAMES = 4  # of the weights in an error

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")  # of a layer or an expert, in a weight's name

# A tokenizer with fewer tokens than this share of the model's rows is another model's, or none. Rows without a token
# fill a table up to a round number: they are a few in a hundred.
LEAST_KNOWN = 0.5

BELONGS = "give a checkpoint whose config.json belongs to its weights"

WRITTEN = ("bos", "eos", "unk", "sep", "pad", "cls")  # the special tokens that a tokenizer puts around texts

MayLack = Callable[[str, Any], bool]  # whether a weight of this name may be missing for this model


def load_whole(auto_class: Any, folder: str, *, may_lack: MayLack = lambda name, model: False, **options: Any) -> Any:
    """Return the model that `auto_class` loads from a checkpoint, all weights of which are the checkpoint's.

    `may_lack`: which weights may be drawn at random all the same. `options`: of `from_pretrained`; with
    `num_hidden_layers` the first layers are wanted only. Raises `ValueError` for a folder that holds no such model,
    for weights that it lacks or has in another shape, and for layers that its config does not count.
    """
    if not is_accelerate_available():  # nothing that only serves installs it: what would be looked at is read
        options.pop("device_map", None)
    try:
        model, report = auto_class.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, trust_remote_code=False, **options
        )
    except Exception as error:  # transformers raises what the readers of its files raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidInput(f"{folder} cannot be loaded: {reason}", "give a whole checkpoint folder") from error
    have = (getattr(model.config, "architectures", None) or ["nothing"])[0]
    wrong = [f"{name} {tuple(there)} for {tuple(here)}" for name, there, here in sorted(report["mismatched_keys"])]
    if wrong:
        wanted, remedy = "its config says", BELONGS
        if "num_labels" in options and not any(_of_base(name, model) for name, *_ in report["mismatched_keys"]):
            wanted, remedy = "a ranker with one score has", "take one with a single label, or its base model"
        raise InvalidInput(f"weights of {folder} have another shape than {wanted}: {_shortened(wrong)}", remedy)
    more = [] if "num_hidden_layers" in options else _uncounted(report["unexpected_keys"], model)
    if more:
        problem = f"{folder} holds weights of more layers than its config says: {_shortened(more)}"
        raise InvalidInput(problem, BELONGS)
    lacking = [name for name in sorted(report["missing_keys"]) if not may_lack(name, model)]
    if lacking:
        problem = f"{folder} ({have}) lacks weights that {type(model).__name__} needs: {_shortened(lacking)}"
        raise InvalidInput(problem, "give a checkpoint that was trained as such, whole: they would be random")
    return model


def _uncounted(unexpected: Iterable[str], model: Any) -> list[str]:
    """Return the weights of a checkpoint, sorted, that differ from one of the model's by a layer's number alone."""

    def kind(name: str) -> str:
        return NUMBER.sub("N", name.removeprefix(f"{model.base_model_prefix}."))

    known = {kind(name) for name in model.state_dict()}
    return sorted(name for name in unexpected if kind(name) in known)


def pooler(name: str, model: Any) -> bool:
    """Return whether a weight is of the base model's pooler, which language models are saved without."""
    return "pooler" in name.split(".")


def _new_head(name: str, model: Any) -> bool:
    """Return whether a weight may be new: it is of what is put on a language model, and there is no trained one."""
    trained = (getattr(model.config, "architectures", None) or [""])[0].endswith("ForSequenceClassification")
    return not trained and (pooler(name, model) or not _of_base(name, model))


def _of_base(name: str, model: Any) -> bool:
    """Return whether a weight is of the base model, below what is put on it."""
    return name.startswith(f"{model.base_model_prefix}.")


def _check_modules(folder: str) -> None:
    """Raise `ValueError` for a cross-encoder of sentence-transformers whose head is a module behind the transformer.

    Such a head scores what its pooling returns, which is another function than the heads of transformers: a new one
    would be random, and what the cross-encoder has learnt would be lost without a word.
    """
    heads: list[str] = []
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # no list of modules, or another program's
        for module in json.loads((Path(folder) / "modules.json").read_text(encoding="utf-8")):
            if module["type"].endswith(".Dense"):
                dense = json.loads((Path(folder) / module["path"] / "config.json").read_text(encoding="utf-8"))
                heads += [module["path"]] if dense["out_features"] == 1 else []
    if heads:
        problem = f"{folder} is a cross-encoder whose head, its module {heads[0]}, would be lost"
        remedy = "start from one whose head is in its model (...ForSequenceClassification), or from its base"
        raise InvalidInput(problem, remedy)


def _shortened(names: list[str]) -> str:
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def check_head(folder: str) -> None:
    """Raise `ValueError` unless the config of a checkpoint is that of a ranker: a head with one output."""
    try:
        content = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{folder} has no config.json that can be read", "give a checkpoint folder") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"config.json of {folder} holds no JSON object", "give a checkpoint folder")
    architecture = (content.get("architectures") or ["nothing"])[0]
    outputs = content.get("num_labels") or len(content.get("id2label") or "01")  # two, where a config does not say
    if architecture.endswith("ForSequenceClassification") and outputs == 1:
        return
    have = f", which has {outputs} outputs" if architecture.endswith("ForSequenceClassification") else ""
    problem = f"{folder} is no ranker with one score: {architecture}{have}"
    raise InvalidInput(problem, "give the output of train, or a cross-encoder with one output")


def check_device(device: str) -> None:
    """Raise `ValueError` for a GPU where torch sees none."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise InvalidInput(f"device='{device}': torch sees no GPU here", "set device to cpu")


def load_ranker(folder: str, **options: Any) -> Any:
    """Return the model of a ranker's checkpoint. Raises `ValueError` as `check_head` and `load_whole` do."""
    check_head(folder)
    model = load_whole(AutoModelForSequenceClassification, folder, **options)
    return transformers_cls_only.with_first_token_layer(model)


def check_ranker(folder: str, *, worded: bool = False) -> None:
    """Raise `ValueError` where `load_ranker`, `load_tokenizer` or `check_pairs` would: the weights are looked at, and
    not read. `worded`: its pairs come as one text, with words around query and document."""
    tokenizer = load_tokenizer(folder, load_ranker(folder, device_map="meta"))
    if not worded:
        check_pairs(tokenizer)


def check_pairs(tokenizer: Any, remedy: str = "") -> None:
    """Raise `ValueError` for a tokenizer that joins query and document into what could be one text."""
    if not tokenizer.num_special_tokens_to_add(pair=True):
        problem = f"the tokenizer of {tokenizer.name_or_path or 'this model'} puts nothing between query and document"
        words = (
            "take a model whose tokenizer does; as a teacher, name the words that it was trained with: template=..."
        )
        raise InvalidInput(f"{problem} ([SEP] or the like)", remedy or words)


def load_student(folder: str, **options: Any) -> Any:
    """Return a model with one output on a pretrained one, in float32; its head is new on a language model alone.

    Raises `ValueError` as `load_whole`, for a head with several outputs, and for one that it cannot take over.
    """
    _check_modules(folder)
    options = {"num_labels": 1, "dtype": torch.float32, **options}
    model = load_whole(AutoModelForSequenceClassification, folder, may_lack=_new_head, **options)
    return transformers_cls_only.with_first_token_layer(model)


def load_tokenizer(folder: str, model: Any) -> Any:
    """Return the tokenizer of a checkpoint. Raises `ValueError` for none, and as `check_vocabulary` does."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises what the readers of its files raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        remedy = "copy all tokenizer files of the model into it"
        raise InvalidInput(f"the tokenizer of {folder} cannot be loaded: {reason}", remedy) from error
    limit: Any = tokenizer.model_max_length
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        problem = f"tokenizer_config.json of {folder} has model_max_length={limit!r}"
        raise InvalidInput(problem, "write a number of tokens, or leave it out")
    check_vocabulary(tokenizer, model, folder)
    return tokenizer


def check_vocabulary(tokenizer: Any, model: Any, folder: str) -> None:
    """Raise `ValueError` for a tokenizer that is not the model's: far fewer tokens than the model has, or ids beyond.

    A tokenizer of bytes or characters needs no files, and has no vocabulary that could be another's.
    """
    rows = getattr(model.config.get_text_config(), "vocab_size", None)
    names = sorted(set(tokenizer.vocab_files_names.values()))
    if not rows or not names:
        return
    files = [name for name in names if (Path(folder) / name).is_file()]
    have = f"{folder} has {', '.join(files) if files else 'none of ' + ', '.join(names)}"
    remedy = "copy all tokenizer files of the model into it (tokenizer.json, tokenizer_config.json and the like)"
    if len(tokenizer) < LEAST_KNOWN * rows:
        problem = f"its tokenizer knows {len(tokenizer):,} tokens, and its model has {rows:,}"
        raise InvalidInput(f"{have}: {problem}", remedy)
    added = tokenizer.get_added_vocab()  # may hold tokens that no text has, as Gemma 3 1B's of images
    written = [number for token, number in tokenizer.get_vocab().items() if token not in added]
    highest = max([*written, *(getattr(tokenizer, f"{name}_token_id") or 0 for name in WRITTEN)])
    if highest >= rows:
        problem = f"its tokenizer writes ids up to {highest:,}, and its model has {rows:,} tokens"
        raise InvalidInput(f"{have}: {problem}", remedy)


def positions(model: Any) -> int:
    """Return the most tokens that a model has positions for; 0 where its positions are relative, without a limit.

    RoBERTa and its kin number positions from the one behind padding's: a table of 514 is for 512 tokens.
    """
    sizes = [
        len(module.weight) - (getattr(module, "offset", 0) if padding is None else padding + 1)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in POSITIONS and hasattr(module, "weight")
        for padding in [getattr(module, "padding_idx", None)]
    ]
    config = model.config.get_text_config()
    declared = _declared(config)
    if declared and not getattr(config, "relative_attention", False):
        sizes.append(declared)
    return min(sizes, default=0)


def _declared(config: Any) -> int:
    """Return the context that a config names; 0 if it names none."""
    declared = getattr(config, "max_position_embeddings", None)
    return declared if isinstance(declared, int) and declared > 0 else 0


def config_of(folder: str) -> Any:
    """Return the config of a checkpoint, by which no code of the checkpoint's own runs."""
    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def without_weights(folder: str) -> Any:
    """Return the base model of a checkpoint on torch's `meta` device: its shapes alone, in a fraction of a second.

    A model that vLLM has and transformers does not have has a config only.
    """
    config = config_of(folder).get_text_config()
    try:
        with torch.device("meta"):
            return AutoModel.from_config(config)
    except (ValueError, ImportError):
        model: Any = nn.Module()
        model.config = config
        return model


def least_bytes(folder: str) -> int:
    """Return the bytes that a checkpoint's weights take in memory at least, by its config: in 16 bits each. Of a
    folder whose config stands elsewhere, as in some of sentence-transformers, 0."""
    if not (Path(folder) / "config.json").is_file():
        return 0
    return 2 * sum(weight.numel() for weight in without_weights(folder).parameters())


def usable_length(tokenizer: Any, model: Any) -> int:
    """Return the tokens to which a checkpoint's texts, or pairs, are cut.

    That is the smallest of the tokenizer's limit, where one can believe it, the model's position embeddings and its
    context.
    """
    limit, least = tokenizer.model_max_length, tokenizer.num_special_tokens_to_add(pair=True)
    known = [int(limit)] if least < limit <= LONGEST else []
    if most := positions(model):
        known.append(most)
    return min(known) if known else _declared(model.config.get_text_config()) or UNKNOWN_LENGTH


def check_positions(model: Any, tokens: int, key: str = "max_length") -> None:
    """Raise `ValueError`, which names the config's `key`, for more tokens than a model has positions for."""
    most = positions(model)
    if most and tokens > most:
        raise InvalidInput(f"{key}: {tokens} tokens, and the model takes {most}", f"set {key} to {most} or less")


def check_room(tokenizer: Any, tokens: int, *, pair: bool, key: str = "max_length") -> None:
    """Raise `ValueError`, which names the config's `key`, for so few tokens that a tokenizer's own leave none for the
    texts: cut to nothing, all of them would be alike."""
    own = int(tokenizer.num_special_tokens_to_add(pair=pair))
    least = own + (2 if pair else 1)
    if tokens < least:
        problem = f"{key}: {tokens} tokens, and the tokenizer puts {own} around {'a pair' if pair else 'a text'}"
        raise InvalidInput(problem, f"set {key} to {least} or more")


def check_layers(model: Any, layers: int) -> None:
    """Raise `ValueError` for more of the first layers than a model has."""
    have = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if have and layers > have:
        raise InvalidInput(
            f"layers: {layers}, and the model has {have}", f"set layers to {have} or less, or 0 for all"
        )
