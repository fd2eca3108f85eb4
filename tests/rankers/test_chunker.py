"""Chunks of documents by the tokenizer's own offsets, and the best one of each."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rrad_ray.config import ChunksConfig
from rrad_ray.errors import InvalidInput
from rrad_ray.rankers.chunker import Chunked, Chunker, ChunkRanker
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.tables import checkpoints
from tests import tiny


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(checkpoints.resolve(checkpoints.BUNDLED[0]))


def test_chunks_begin_and_end_where_the_tokenizers_tokens_do(tokenizer: Any) -> None:
    text = "  Boundary layers, superimposed on shear-flows; [SEP] is text. ＷＩＤＥ naïve 한국어 end"
    offsets = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    offsets = offsets["offset_mapping"]
    split = Chunker(tokenizer, ChunksConfig(tokens=7, overlap=2))([text, "short one"])
    starts = list(range(0, len(offsets) - 2, 5))
    expected = [[offsets[at][0], offsets[min(at + 7, len(offsets)) - 1][1]] for at in starts]
    assert split.spans == [*expected, [0, len("short one")]]
    assert split.texts == [*(text[start:end] for start, end in expected), "short one"]
    assert split.owners == [*[0] * len(expected), 1]
    assert expected[-1][1] == len(text)


def test_a_text_that_fits_stays_as_it_is_and_without_chunks_every_text_does(tokenizer: Any) -> None:
    text = "  white space around seven words here  "
    count = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    for cfg in (ChunksConfig(tokens=count), ChunksConfig(), ChunksConfig(tokens=count + 1, overlap=2)):
        split = Chunker(tokenizer, cfg)([text, ""])
        assert (split.texts, split.spans, split.owners) == ([text, ""], [[0, len(text)], [0, 0]], [0, 1])
    assert len(Chunker(tokenizer, ChunksConfig(tokens=count - 1))([text]).texts) == 2
    assert Chunker(tokenizer, ChunksConfig(tokens=3))([]) == Chunked([], [], [])


def test_no_more_chunks_than_most_and_no_token_behind_the_limit_is_read(tokenizer: Any) -> None:
    text = " ".join(f"word{number}" for number in range(50))
    most = Chunker(tokenizer, ChunksConfig(tokens=10, most=3))([text])
    assert most.texts == Chunker(tokenizer, ChunksConfig(tokens=10))([text]).texts[:3]
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    limited = Chunker(tokenizer, ChunksConfig(tokens=10))([text], limit=15)
    assert limited.spans == [[0, offsets[9][1]], [offsets[10][0], offsets[14][1]]]
    assert Chunker(tokenizer, ChunksConfig(tokens=10))([text], limit=4).spans == [[0, offsets[3][1]]]


def test_a_tokenizer_that_is_truncating_elsewhere_still_gives_whole_chunks(tokenizer: Any) -> None:
    text = "word " * 40
    chunker = Chunker(tokenizer, ChunksConfig(tokens=8))
    expected = chunker([text]).spans
    tokenizer(text, truncation=True, max_length=5)
    assert chunker([text]).spans == expected
    assert expected[-1][1] == len(text.rstrip())
    assert len(tokenizer(text, truncation=True, max_length=5)["input_ids"]) == 5, "nor is its own truncation changed"


def test_a_model_at_an_endpoint_counts_words(tokenizer: Any) -> None:
    split = Chunker(None, ChunksConfig(tokens=2, overlap=1))(["one  two\nthree four"])
    assert split.texts == ["one  two", "two\nthree", "three four"]
    slow = type("Slow", (), {"is_fast": False})()
    with pytest.raises(InvalidInput, match="its tokenizer has no offsets"):
        Chunker(slow, ChunksConfig(tokens=2))


@given(st.integers(1, 9), st.integers(0, 8), st.integers(1, 5), st.lists(st.integers(0, 30), max_size=6))
def test_chunks_cover_every_word_in_order_up_to_most(tokens: int, overlap: int, most: int, sizes: list[int]) -> None:
    cfg = ChunksConfig(tokens=tokens, overlap=min(overlap, tokens - 1), most=most)
    texts = [" ".join(map(str, range(size))) for size in sizes]
    split = Chunker(None, cfg)(texts)
    for number, size in enumerate(sizes):
        chunks = [list(map(int, text.split())) for text, owner in zip(split.texts, split.owners) if owner == number]
        assert 1 <= len(chunks) <= most
        assert all(len(chunk) <= tokens for chunk in chunks)
        step = tokens - cfg.overlap
        assert [chunk[0] for chunk in chunks if chunk] == [step * place for place in range(len(chunks)) if size]
        if len(chunks) < most:
            assert sorted({word for chunk in chunks for word in chunk}) == list(range(size))


def test_the_best_chunk_of_each_document_is_the_first_of_the_highest_score() -> None:
    split = Chunked([""] * 6, [0, 0, 0, 1, 2, 2], [[0, 0]] * 6)
    assert split.best([1.0, 3.0, 3.0, -5.0, -math.inf, -2.0]) == [1, 3, 5]
    assert split.best([1.0, math.nan, 3.0, -5.0, 0.0, 0.0]) == [1, 3, 4], "what is no number is not passed over"


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Ranker:
    folder = tiny.save(tmp_path_factory.mktemp("tiny") / "student", "Bert", limit=24, initializer_range=0.5)
    return Ranker.load(folder, dtype="float32")


def document(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(tiny.WORDS[4:], k=words))


def test_a_students_score_is_the_highest_of_the_chunks_scored_alone(ranker: Ranker) -> None:
    texts = [document(3, 0), document(50, 1), document(8, 2), document(17, 3)]
    chunks = ChunksConfig(tokens=8, overlap=3)
    scores, spans = ChunkRanker(ranker, chunks).best_chunks(["w1 w2"] * 4, texts)
    for text, score, span in zip(texts, scores, spans, strict=True):
        split = Chunker(ranker.tokenizer, chunks)([text])
        alone = [ranker.score("w1 w2", [chunk])[0] for chunk in split.texts]
        assert len(alone) == max(1, math.ceil((len(text.split()) - 3) / 5))
        assert score == pytest.approx(max(alone), abs=1e-5)
        assert span == split.spans[alone.index(max(alone))]
    assert ChunkRanker(ranker, chunks).score("w1 w2", texts) == scores
    fitting = [texts[0], texts[2]]
    assert ChunkRanker(ranker, chunks).score("w1", fitting) == ranker.score("w1", fitting), "the very same passes"
    assert ChunkRanker(ranker, ChunksConfig()).score("w1", texts) == ranker.score("w1", texts)
    assert ChunkRanker(ranker, chunks).best_chunks([], []) == ([], [])


def test_chunks_that_a_student_cannot_read_whole_are_refused(ranker: Ranker) -> None:
    with pytest.raises(InvalidInput, match="reads 24 tokens of query and document"):
        ChunkRanker(ranker, ChunksConfig(tokens=24))


@pytest.mark.parametrize("text", ["北京天气很好。" * 20, "かなかなで書いた文。" * 14, "สวัสดีชาวโลก" * 12])
def test_without_a_tokenizer_texts_of_scripts_without_spaces_have_chunks_too(text: str) -> None:
    split = Chunker(None, ChunksConfig(tokens=16))([text])
    assert len(split.texts) >= 4
    assert "".join(split.texts) == text
    assert {len(chunk) for chunk in split.texts[:-1]} <= {*range(16, 33)}
