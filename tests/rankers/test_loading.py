"""Checkpoints of many architectures: the tokens that each takes, and those with weights that would be random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from torch import nn
from transformers import BertConfig

from rrad_ray.errors import InvalidInput
from rrad_ray.rankers import loading
from rrad_ray.rankers.bi_encoder import BiEncoder, check_bi_encoder
from rrad_ray.rankers.generation import WRITES, Explainer
from rrad_ray.rankers.likelihood import LikelihoodRanker
from rrad_ray.rankers.ranker import Ranker
from tests import tiny

pytestmark = pytest.mark.usefixtures("one_thread")
LONG = " ".join(f"w{number % 60}" for number in range(1100))
LAYERS = {"max_position_embeddings": 40}
DISTIL = LAYERS | {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
RELATIVE = LAYERS | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
HEADS = LAYERS | {"num_key_value_heads": 1, "head_dim": 8}
GPT2 = {"n_positions": 40, "n_embd": 16, "n_layer": 2, "n_head": 2}
# Architecture, its options, the positions that it has for tokens; 0: no limit.
ARCHITECTURES = {
    "Bert": (LAYERS, 40),
    "Electra": (LAYERS, 40),
    "Roberta": (LAYERS, 38),
    "XLMRoberta": (LAYERS, 38),
    "Camembert": (LAYERS, 38),
    "MPNet": (LAYERS, 38),
    "DistilBert": (DISTIL, 40),
    "ModernBert": (LAYERS | {"global_attn_every_n_layers": 1, "cls_token_id": 0, "sep_token_id": 2}, 40),
    "DebertaV2": (RELATIVE, 0),
    "Llama": (HEADS, 40),
    "Qwen3": (HEADS, 40),
    "GPT2": (GPT2, 40),
}
UNBELIEVABLE = [None, 10**30, 10**12, float("inf"), 0, -1, 2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_gpu_that_torch_does_not_see_is_named(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "model", "Bert")
    with pytest.raises(InvalidInput, match="device='cuda:1': torch sees no GPU here; set device to cpu"):
        Ranker.load(folder, device="cuda:1")


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("limit", [None, 1024, 20], ids=str)
def test_a_ranker_takes_the_smallest_of_tokenizer_and_positions_and_cuts_longer_texts(
    name: str, limit: int | None, tmp_path: Path
) -> None:
    options, most = ARCHITECTURES[name]
    folder = tiny.save(tmp_path, name, limit=limit, **options)
    ranker = Ranker.load(folder, dtype="float32")
    expected = min(limit or 40, most) if most else (limit or 40)
    assert ranker.max_length == expected
    scores = ranker.score("w1 w2", [LONG, "w3", "", LONG.replace("w5", "w6")])
    assert len(scores) == 4
    assert all(map(torch.isfinite, torch.tensor(scores)))
    assert len(ranker.encode(["w1"], [LONG])[0]["input_ids"]) == expected


@pytest.mark.parametrize("limit", UNBELIEVABLE, ids=str)
def test_a_tokenizers_limit_that_nobody_can_believe_is_none(limit: Any, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "Bert", **LAYERS)
    if limit is not None:
        path = tmp_path / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": limit}))
    assert Ranker.load(folder).max_length == 40


@pytest.mark.parametrize("name", ["Bert", "XLMRoberta", "Qwen3"])
def test_a_new_student_with_more_tokens_than_positions_is_refused_by_name(name: str, tmp_path: Path) -> None:
    options, most = ARCHITECTURES[name]
    folder = tiny.save(tmp_path, name, "Model", **options)
    with pytest.raises(ValueError, match=f"max_length: 41 tokens, and the model takes {most}"):
        Ranker.encoder(folder, max_length=41)
    assert Ranker.encoder(folder, max_length=most).max_length == most


def test_relative_positions_set_no_limit_to_a_new_student(tmp_path: Path) -> None:
    ranker = Ranker.encoder(tiny.save(tmp_path, "DebertaV2", "Model", **RELATIVE), max_length=100)
    ranker.save(tmp_path / "saved")
    assert Ranker.load(str(tmp_path / "saved")).max_length == 100


def test_a_bi_encoder_is_refused_more_tokens_than_positions_before_and_when_it_is_loaded(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "XLMRoberta", "Model", **LAYERS)
    for make in (check_bi_encoder, lambda folder, length: BiEncoder(folder, max_length=length)):
        with pytest.raises(ValueError, match="max_length: 39 tokens, and the model takes 38"):
            make(folder, 39)
    assert BiEncoder(folder, max_length=38).documents([LONG, ""]).shape == (2, 16)


@pytest.mark.parametrize("name", ["Llama", "GPT2"])
def test_an_explainer_and_a_likelihood_stay_inside_the_models_context(name: str, tmp_path: Path) -> None:
    options, most = ARCHITECTURES[name]
    folder = tiny.save(tmp_path / "ranker", name, tie_word_embeddings=True, **{WRITES: True}, **options)
    assert isinstance(Explainer.load(folder).explain("w1", LONG, max_tokens=128), str)
    folder = tiny.save(tmp_path / "lm", name, "LMHeadModel" if name == "GPT2" else "ForCausalLM", **options)
    teacher = LikelihoodRanker(folder, template="question", doc_tokens=100)
    assert len(teacher.score("w1", [LONG, "w2"])) == 2
    assert teacher.plan.limit == most


# ---- weights that would be random ---------------------------------------------------------------------------


def without(folder: str, part: str) -> str:
    """Take the weights whose names have this part out of a checkpoint."""
    path = Path(folder) / "model.safetensors"
    kept = {name: weight for name, weight in load_file(path).items() if part not in name}
    assert len(kept) < len(load_file(path))
    save_file(kept, path, {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("Bert", "classifier"),
        ("Bert", "pooler"),
        ("Bert", "layer.1.attention.self.key.weight"),
        ("Roberta", "classifier.out_proj"),
        ("DistilBert", "pre_classifier"),
        ("ModernBert", "head.dense"),
        ("DebertaV2", "word_embeddings"),
        ("Llama", "score"),
        ("Qwen3", "layers.0.mlp"),
    ],
)
def test_a_ranker_that_lacks_a_weight_is_refused_and_named(name: str, part: str, tmp_path: Path) -> None:
    folder = without(tiny.save(tmp_path, name, **ARCHITECTURES[name][0]), part)
    for load in (Ranker.load, loading.check_ranker):
        with pytest.raises(ValueError, match="lacks weights that") as error:
            load(folder)
        assert folder in str(error.value)
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["Bert", "Roberta", "DistilBert", "ModernBert", "DebertaV2", "Llama", "Qwen3"])
def test_a_classifier_of_several_labels_or_a_model_without_a_head_is_no_ranker(name: str, tmp_path: Path) -> None:
    options, _ = ARCHITECTURES[name]
    two = tiny.save(tmp_path / "two", name, **(options | {"num_labels": 2}))
    bare = tiny.save(tmp_path / "bare", name, "Model", **options)
    for load in (Ranker.load, loading.check_ranker, Explainer.load):
        with pytest.raises(ValueError, match=r"two is no ranker with one score: .*, which has 2 outputs; give"):
            load(two)
        with pytest.raises(ValueError, match=f"bare is no ranker with one score: {name}Model; give"):
            load(bare)


def test_a_head_or_a_table_of_another_shape_than_the_config_says_is_refused(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "Bert", **(LAYERS | {"num_labels": 3}))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": {"0": "x"}, "label2id": {"x": 0}}))
    for load in (Ranker.load, loading.check_ranker):
        with pytest.raises(
            ValueError, match=r"another shape than its config says: classifier\.bias \(3,\) for \(1,\)"
        ):
            load(folder)


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_a_checkpoint_whose_weights_cannot_be_read_is_refused_with_the_reason(
    content: bytes | None, tmp_path: Path
) -> None:
    folder = tiny.save(tmp_path, "Bert", **LAYERS)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(content) if content is not None else weights.unlink()
    for load in (Ranker.load, loading.check_ranker):
        with pytest.raises(ValueError, match="cannot be loaded"):
            load(folder)


def test_a_new_student_may_have_a_new_head_and_pooler_but_nothing_else(tmp_path: Path) -> None:
    folder = without(tiny.save(tmp_path / "a", "Bert", "Model", **LAYERS), "pooler")
    assert Ranker.encoder(folder, max_length=16).parameters_count > 0
    folder = without(folder, "layer.0.output")
    with pytest.raises(ValueError, match="lacks weights"):
        Ranker.encoder(folder, max_length=16)
    two = tiny.save(tmp_path / "two", "Bert", **(LAYERS | {"num_labels": 2}))
    with pytest.raises(ValueError, match=r"classifier\.bias \(2,\) for \(1,\)"):
        Ranker.encoder(two, max_length=16)
    path = Path(two, "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 50}))
    with pytest.raises(ValueError, match=r"than its config says: .*position_embeddings.*whose config\.json belongs"):
        Ranker.encoder(two, max_length=16)


@pytest.mark.parametrize(("name", "part"), [("Bert", "classifier"), ("Bert", "pooler"), ("Llama", "score")])
def test_a_new_student_on_a_ranker_without_its_head_is_refused(name: str, part: str, tmp_path: Path) -> None:
    folder = without(tiny.save(tmp_path, name, **ARCHITECTURES[name][0]), part)
    start = Ranker.decoder if name == "Llama" else Ranker.encoder
    with pytest.raises(ValueError, match=rf"lacks weights that {name}ForSequenceClassification needs: .*{part}"):
        start(folder, max_length=16)


def test_a_new_student_keeps_the_head_of_a_cross_encoder_and_is_refused_one_that_is_a_module(tmp_path: Path) -> None:
    base = tiny.save(tmp_path / "base", "Bert", "Model", **LAYERS)
    width = BertConfig.from_pretrained(base).hidden_size
    dense = Dense(width, 1, activation_function=nn.Identity(), module_output_name="scores")
    cut = CrossEncoder(modules=[Transformer(base), Pooling(width, "cls"), dense])
    cut.save_pretrained(str(tmp_path / "cut"))
    with pytest.raises(ValueError, match="cut is a cross-encoder whose head, its module 2_Dense, would be lost"):
        Ranker.encoder(str(tmp_path / "cut"), max_length=16)
    whole = CrossEncoder(tiny.save(tmp_path / "whole", "Bert", **ARCHITECTURES["Bert"][0]), device="cpu")
    whole.save_pretrained(str(tmp_path / "saved"))
    head = Ranker.encoder(str(tmp_path / "saved"), max_length=16).model.classifier
    assert torch.equal(head.weight, whole.model.classifier.weight)


def test_a_bi_encoder_or_a_causal_lm_without_a_weight_is_refused(tmp_path: Path) -> None:
    folder = without(tiny.save(tmp_path / "bi", "Bert", "Model", **LAYERS), "layer.1.intermediate")
    with pytest.raises(ValueError, match=r"bi \(BertModel\) lacks weights that BertModel needs: .*intermediate"):
        BiEncoder(folder, max_length=16)
    folder = tiny.save(tmp_path / "lm", "Llama", "Model", **HEADS)
    with pytest.raises(ValueError, match=r"lacks weights that LlamaForCausalLM needs: lm_head\.weight"):
        LikelihoodRanker(folder, template="question", doc_tokens=8)


# ---- a tokenizer that is not the model's ----------------------------------------------------------------------

LOADERS = {
    "ranker": ("ForSequenceClassification", Ranker.load),
    "check": ("ForSequenceClassification", loading.check_ranker),
    "encoder": ("ForSequenceClassification", lambda folder: Ranker.encoder(folder, max_length=16)),
    "decoder": ("ForSequenceClassification", lambda folder: Ranker.decoder(folder, max_length=16)),
    "explainer": ("ForSequenceClassification", Explainer.load),
    "bi-encoder": ("Model", lambda folder: BiEncoder(folder, max_length=16)),
    "bi-encoder before": ("Model", lambda folder: check_bi_encoder(folder, 16)),
    "likelihood": ("ForCausalLM", lambda folder: LikelihoodRanker(folder, template="question", doc_tokens=8)),
}


@pytest.mark.parametrize("limit", ["512", [512], True, {}])
def test_a_tokenizers_limit_that_is_no_number_is_refused_with_its_folder(limit: Any, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "tiny", "Bert")
    path = Path(folder) / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": limit}))
    with pytest.raises(InvalidInput, match=rf"tokenizer_config.json of {folder} has model_max_length="):
        loading.check_ranker(folder)


@pytest.mark.parametrize("damage", ["no files", "config only", "torn", "fewer", "more"])
@pytest.mark.parametrize("loader", LOADERS)
def test_a_tokenizer_that_is_missing_or_another_models_is_refused_with_its_folder(
    loader: str, damage: str, tmp_path: Path
) -> None:
    head, load = LOADERS[loader]
    size = {"fewer": 200, "more": 50}.get(damage, len(tiny.WORDS))
    folder = tiny.save(tmp_path, "Llama", head, vocab_size=size, tie_word_embeddings=True, **{WRITES: True}, **HEADS)
    if damage == "torn":
        path = tmp_path / "tokenizer.json"
        path.write_bytes(path.read_bytes()[:1000])
    if damage in ("no files", "config only"):
        (tmp_path / "tokenizer.json").unlink()
    if damage == "no files":
        (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="tokenizer") as error:
        load(folder)
    assert folder in str(error.value)
    assert "copy all tokenizer files" in str(error.value)


def test_a_token_beyond_the_models_that_no_text_has_is_no_fault_and_one_around_each_text_is(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "Bert")
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    assert len(Ranker.load(folder).score("w1", ["w2", "w3"])) == 2
    tokenizer.sep_token = "<image>"
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="its tokenizer writes ids up to 64, and its model has 64 tokens"):
        Ranker.load(folder)


@pytest.mark.parametrize("content", ["[]", "3", "null", '"bert"'])
def test_a_config_that_is_no_json_object_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    for load in (Ranker.load, loading.check_ranker, Explainer.load):
        with pytest.raises(ValueError, match=r"config\.json of .* holds no JSON object; give"):
            load(str(tmp_path))


# ---- a config that counts fewer layers than the weights have ---------------------------------------------------


def cut(folder: Path, key: str = "num_hidden_layers") -> None:
    """Make the config count one layer less than the weights have."""
    content = json.loads((folder / "config.json").read_text())
    content[key] -= 1
    if "layer_types" in content:
        content["layer_types"] = content["layer_types"][: content[key]]
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_ranker_whose_config_counts_fewer_layers_than_it_has_is_refused(name: str, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, name, **ARCHITECTURES[name][0])
    cut(tmp_path, {"DistilBert": "n_layers", "GPT2": "n_layer"}.get(name, "num_hidden_layers"))
    for load in (Ranker.load, loading.check_ranker):
        with pytest.raises(ValueError, match="holds weights of more layers than its config says: ") as error:
            load(folder)
        assert folder in str(error.value)


@pytest.mark.parametrize(
    "loader", [name for name in LOADERS if name != "bi-encoder before"]
)  # which reads no weights
def test_fewer_layers_in_the_config_are_seen_whatever_loads_the_model(loader: str, tmp_path: Path) -> None:
    head, load = LOADERS[loader]
    folder = tiny.save(tmp_path, "Llama", head, tie_word_embeddings=True, **{WRITES: True}, **HEADS)
    cut(tmp_path)
    with pytest.raises(ValueError, match=r"more layers than its config says: .*layers\.1\."):
        load(folder)


def test_the_first_layers_of_a_model_may_be_asked_for(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "Llama", "Model", **HEADS)
    assert Ranker.decoder(folder, max_length=16, layers=1).model.config.num_hidden_layers == 1


def test_so_few_tokens_that_nothing_of_a_text_is_read_are_refused(tmp_path: Path) -> None:
    """All texts are alike then: a student of `max_length=3` trained, and a bi-encoder's cosines were all 1."""
    source = tiny.save(tmp_path / "bert", "Bert", "Model")
    for length in (1, 3, 4):
        with pytest.raises(
            InvalidInput, match=f"max_length: {length} tokens, and the tokenizer puts 3 around a pair"
        ):
            Ranker.encoder(source, max_length=length)
    Ranker.encoder(source, max_length=5)
    for length in (1, 2):
        with pytest.raises(InvalidInput, match="puts 2 around a text; set max_length to 3 or more"):
            check_bi_encoder(source, length)
    check_bi_encoder(source, 3)


def test_more_layers_than_a_model_has_are_named_as_such(tmp_path: Path) -> None:
    model = loading.load_student(tiny.save(tmp_path / "bert", "Bert", "Model"), device_map="meta")
    with pytest.raises(InvalidInput, match="layers: 50, and the model has 2; set layers to 2 or less"):
        loading.check_layers(model, 50)
    loading.check_layers(model, 2)
