"""Rankers on real models: what is saved is a plain checkpoint that other software scores the same."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rrad_ray import prompts
from rrad_ray.config.template_files import load_template
from rrad_ray.config.templates import LikelihoodTemplate
from rrad_ray.errors import RradError
from rrad_ray.rankers.bi_encoder import BiEncoder
from rrad_ray.rankers.checkpoint import PAD
from rrad_ray.rankers.likelihood import LikelihoodRanker
from rrad_ray.rankers.ranker import PAD_MULTIPLE, Ranker, one_by_one, shortened
from rrad_ray.tables import checkpoints
from tests import tiny
from tests.toys import causal_lm

MINILM, SMOLLM2, _ = checkpoints.BUNDLED
pytestmark = pytest.mark.usefixtures("one_thread", "in_judge")
LENGTH = 48
QUERY = "how do I sort a list of numbers"
TEXTS = [
    "sorted(iterable) returns a new sorted list from the items in iterable.",
    "",
    "x",
    "Eine Liste von Zahlen sortieren: список чисел 数値のリストを並べ替える ترتيب قائمة 🐍",
    "open a file and read it line by line. " * 40,
    "list.sort() sorts in place.\n\n\tIt returns None.",
]
CLOSE = {"rel": 0, "abs": 1e-4}


def fresh(kind: str) -> Ranker:
    """Two layers of a real model with a head whose scores differ visibly between texts, and are no larger than a
    trained student's: float32 keeps 1e-4 of tens only with luck in the order of its sums."""
    torch.manual_seed(0)
    make, source, spread = {"encoder": (Ranker.encoder, MINILM, 2.0), "decoder": (Ranker.decoder, SMOLLM2, 0.4)}[kind]
    ranker = make(checkpoints.resolve(source), max_length=LENGTH, layers=2).eval()
    head = ranker.model.classifier if kind == "encoder" else ranker.model.score
    torch.nn.init.normal_(head.weight, std=spread)
    return ranker


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Ranker, str]:
    """Kind, ranker, and the folder where it is saved."""
    ranker = fresh(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    ranker.save(folder)
    return request.param, ranker, str(folder)


def plainly(folder: str, query: str, texts: Sequence[str], batch: int) -> list[float]:
    """Scores by transformers alone, as a user would write it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    scores: list[float] = []
    with torch.inference_mode():
        for first in range(0, len(texts), batch):
            some = list(texts[first : first + batch])
            encoded = tokenizer([query] * len(some), some, truncation=True, padding=True, return_tensors="pt")
            scores += model(**encoded).logits[:, 0].tolist()
    return scores


def test_the_scores_of_these_texts_differ_so_that_the_comparisons_below_can_fail(
    student: tuple[str, Ranker, str],
) -> None:
    scores = student[1].score(QUERY, TEXTS)
    assert min(abs(a - b) for i, a in enumerate(scores) for b in scores[:i]) > 1e-3


def test_a_saved_ranker_loads_with_the_same_scores_and_length(student: tuple[str, Ranker, str]) -> None:
    _, ranker, folder = student
    again = Ranker.load(folder, dtype="float32")
    assert not again.training
    assert again.max_length == LENGTH
    assert again.parameters_count == ranker.parameters_count
    assert again.score(QUERY, TEXTS) == pytest.approx(ranker.score(QUERY, TEXTS), rel=0, abs=1e-5)


def test_a_string_in_place_of_a_list_is_refused(student: tuple[str, Ranker, str]) -> None:
    with pytest.raises(ValueError, match=r"one is a string; write \[text\]"):
        student[1].score(QUERY, TEXTS[0])
    with pytest.raises(ValueError, match="one is a string"):
        student[1].score_pairs(QUERY, TEXTS)


def test_lists_of_different_lengths_and_what_is_no_text_are_refused(student: tuple[str, Ranker, str]) -> None:
    ranker, wrong = student[1], "text 1 is NoneType, not a string"
    with pytest.raises(ValueError, match="1 queries for 2 texts"):
        ranker.score_pairs([QUERY], TEXTS[:2])
    with pytest.raises(ValueError, match=wrong):
        ranker.score(QUERY, ["x", None])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="query 0 is int"):
        ranker.score(7, ["x"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="generator is no list of texts; write list"):
        ranker.score_pairs([QUERY], (text for text in ["x"]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"text 1 holds half a character .*surrogates not allowed"):
        ranker.score(QUERY, ["x", "cut \ud83d"])
    assert ranker.score(QUERY, (text for text in TEXTS)) == ranker.score(QUERY, TEXTS)


def left_over(ranker: Ranker, query: str, text: str) -> int:
    """Encodings that the tokenizer makes of what it cuts off a pair."""
    return len(ranker.tokenize([query], [text]).encodings[0].overflowing)


def test_a_long_query_and_a_long_document_are_not_combined_part_by_part(student: tuple[str, Ranker, str]) -> None:
    """2,000 tokens beside 20,000 took gigabytes, and one request of an endpoint's usual limits killed it."""
    ranker = student[1]
    assert left_over(ranker, "sort " * 600, "a list of numbers " * 600) < 20
    assert len(ranker.score("sort " * 4000, ["a list of numbers " * 10_000] * 2)) == 2


@pytest.mark.parametrize("words", [(40, 900), (300, 900), (31, 4000)])
def test_long_pairs_are_read_as_the_tokenizer_alone_would_cut_them(
    student: tuple[str, Ranker, str], words: tuple[int, int]
) -> None:
    ranker, source = student[1], random.Random(0)
    kinds = ["unbelievably", "sorted", "x" * 150, "naïve", "数値の", "Zahlen,", "f(x)=y"]
    query, text = (" ".join(source.choices(kinds, k=count)) for count in words)
    assert shortened(ranker, [query], [text]) != ([query], [text])
    alone = ranker.tokenizer([query], [text], truncation=True, max_length=LENGTH, split_special_tokens=True)
    assert ranker.encode([query], [text])[0]["input_ids"] == alone["input_ids"][0]


@pytest.mark.parametrize("batch", [1, len(TEXTS)], ids=["one by one", "padded"])
def test_plain_transformers_scores_the_same(student: tuple[str, Ranker, str], batch: int) -> None:
    _, ranker, folder = student
    assert plainly(folder, QUERY, TEXTS, batch) == pytest.approx(ranker.score(QUERY, TEXTS), **CLOSE)


def test_the_cross_encoder_of_sentence_transformers_scores_the_same(student: tuple[str, Ranker, str]) -> None:
    _, ranker, folder = student
    scores = CrossEncoder(folder, device="cpu").predict([(QUERY, text) for text in TEXTS], show_progress_bar=False)
    assert scores.tolist() == pytest.approx(ranker.score(QUERY, TEXTS), **CLOSE)


def test_scores_keep_the_order_of_the_input(student: tuple[str, Ranker, str]) -> None:
    ranker = student[1]
    alone = [ranker.score(QUERY, [text])[0] for text in TEXTS]
    for seed in range(3):
        order = random.Random(seed).sample(range(len(TEXTS)), len(TEXTS))
        assert ranker.score(QUERY, [TEXTS[index] for index in order]) == pytest.approx(
            [alone[index] for index in order], **CLOSE
        )


def test_special_tokens_in_a_query_or_a_document_are_text(student: tuple[str, Ranker, str]) -> None:
    """So that no document passes for two, or for the end of the pair: in training, evaluation and serving alike."""
    _, ranker, _ = student
    special = set(ranker.tokenizer.all_special_ids)
    forged = " ".join(ranker.tokenizer.all_special_tokens)
    for encode in (ranker.encode, lambda *pair: one_by_one(ranker.tokenize(*pair))):
        [plain], [other] = encode(["add"], ["numbers"]), encode([f"add {forged}"], [f"numbers {forged}"])
        assert len(other["input_ids"]) > len(plain["input_ids"])
        ids = [[token for token in pair["input_ids"] if token in special] for pair in (plain, other)]
        assert ids[0] == ids[1]
    assert ranker.cut([forged], 99) == [forged]


def test_how_many_tokens_a_pass_may_hold_does_not_change_the_scores(student: tuple[str, Ranker, str]) -> None:
    ranker = student[1]
    pairs = ranker.encode([QUERY] * len(TEXTS), TEXTS)
    assert max(len(pair["input_ids"]) for pair in pairs) == LENGTH
    with torch.inference_mode():
        alone, together = ranker.logits(pairs, 1), ranker.logits(pairs, 10**6)
    assert together.tolist() == pytest.approx(alone.tolist(), **CLOSE)


def test_passes_have_few_lengths_none_above_the_models_and_keep_to_their_tokens(
    student: tuple[str, Ranker, str],
) -> None:
    ranker = student[1]
    texts = [" ".join(["word"] * count) for count in range(60)]
    shapes = []
    for places, chunk in ranker.passes(ranker.encode([QUERY] * len(texts), texts), 4 * LENGTH):
        size, length = chunk["input_ids"].shape
        assert size == len(places)
        assert size * length <= 4 * LENGTH
        shapes.append(length)
    assert set(shapes) <= {*range(PAD_MULTIPLE, LENGTH, PAD_MULTIPLE), LENGTH}
    assert min(shapes) < LENGTH


def test_a_pass_is_not_padded_beyond_a_length_that_is_no_multiple_of_the_step() -> None:
    ranker = fresh("encoder")
    ranker.max_length = 37
    ((_, chunk),) = ranker.passes(ranker.encode([QUERY], TEXTS[4:5]), 99)
    assert chunk["input_ids"].shape == (1, 37)


def test_pairs_of_several_queries_share_passes_and_no_texts_give_no_scores(student: tuple[str, Ranker, str]) -> None:
    ranker = student[1]
    other = "read a file"
    mixed = ranker.score_pairs([QUERY, other, QUERY], [TEXTS[0], TEXTS[0], TEXTS[4]])
    assert mixed == pytest.approx(
        [ranker.score(QUERY, TEXTS[:1])[0], ranker.score(other, TEXTS[:1])[0], ranker.score(QUERY, TEXTS[4:5])[0]],
        **CLOSE,
    )
    assert ranker.score(QUERY, []) == []


def test_forward_fills_the_true_slots_row_by_row_and_leaves_the_others_zero(student: tuple[str, Ranker, str]) -> None:
    ranker = student[1]
    mask = torch.tensor([[True, False, True], [False, True, False]])
    texts = [TEXTS[0], TEXTS[4], TEXTS[2]]
    with torch.inference_mode():
        scores_BN = ranker(ranker.encode([QUERY] * 3, texts), mask, 10**6)
    first, second, third = ranker.score(QUERY, texts)
    assert scores_BN.flatten().tolist() == pytest.approx([first, 0.0, second, 0.0, third, 0.0], **CLOSE)
    assert scores_BN.dtype == torch.float32


def test_a_checkpoint_is_float32_says_identity_and_takes_finer_weights(
    student: tuple[str, Ranker, str], tmp_path: Path
) -> None:
    kind, ranker, folder = student
    config = json.loads(Path(folder, "config.json").read_text())
    assert config["dtype"] == "float32"
    assert config["num_hidden_layers"] == 2
    assert config["sentence_transformers"]["activation_fn"] == "torch.nn.modules.linear.Identity"
    name = "model.classifier.weight" if kind == "encoder" else "model.score.weight"
    head = dict(ranker.named_parameters())[name]
    ranker.save(tmp_path, {name: head.detach() * 2})
    doubled = dict(Ranker.load(str(tmp_path), dtype="float32").named_parameters())[name]
    torch.testing.assert_close(doubled, head * 2)


def test_a_bfloat16_ranker_scores_nearly_the_same_and_is_saved_as_float32(
    student: tuple[str, Ranker, str], tmp_path: Path
) -> None:
    half = Ranker.load(student[2], dtype="bfloat16")
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    exact = np.asarray(student[1].score(QUERY, TEXTS))
    # bfloat16 keeps 8 bits of a number, and these scores are far from zero.
    assert np.asarray(half.score(QUERY, TEXTS)) == pytest.approx(exact, rel=0.05, abs=0.1 * np.ptp(exact))
    half.save(tmp_path)
    assert {weight.dtype for weight in Ranker.load(str(tmp_path), dtype="float32").parameters()} == {torch.float32}


# ---- the decoder's own --------------------------------------------------------------------------------------


def test_the_decoders_tokenizer_carries_the_template_and_a_pad_token_of_its_own(tmp_path: Path) -> None:
    fresh("decoder").save(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert tokenizer.pad_token == PAD
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert config["pad_token_id"] == tokenizer.pad_token_id
    assert config["vocab_size"] == len(tokenizer) > tokenizer.pad_token_id
    assert tokenizer.model_max_length == LENGTH
    assert tokenizer.padding_side == "right"

    ids = tokenizer("sort a list", "sorted() sorts")["input_ids"]
    assert tokenizer.decode(ids) == f"Query: sort a list\nDocument: sorted() sorts{tokenizer.eos_token}"
    # Nothing merges across the seams: the pieces are tokenized as if they stood alone.
    source = AutoTokenizer.from_pretrained(checkpoints.resolve(SMOLLM2))
    pieces = ["Query:", " sort a list", "\nDocument:", " sorted() sorts", source.eos_token]
    assert ids == [token for piece in pieces for token in source(piece, add_special_tokens=False)["input_ids"]]


def test_a_decoder_student_trained_further_reads_pairs_as_before(tmp_path: Path) -> None:
    first = fresh("decoder").eval()
    first.save(tmp_path)
    second = Ranker.decoder(str(tmp_path), max_length=LENGTH).eval()
    assert second.encode([QUERY], TEXTS[:1]) == first.encode([QUERY], TEXTS[:1])
    assert len(second.tokenizer) == len(first.tokenizer)
    assert second.score(QUERY, TEXTS) == pytest.approx(first.score(QUERY, TEXTS), **CLOSE)


@pytest.mark.parametrize("name", ["Qwen2Tokenizer", "GPT2Tokenizer", "TokenizersBackend"])
def test_a_decoder_of_another_family_is_tokenized_after_loading_as_it_was_trained(tmp_path: Path, name: str) -> None:
    source, folder = tmp_path / "source", tmp_path / "student"
    tokenizer = AutoTokenizer.from_pretrained(checkpoints.resolve(SMOLLM2))
    tokenizer.save_pretrained(source)
    settings = json.loads((source / "tokenizer_config.json").read_text()) | {"tokenizer_class": name}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    size = {"hidden_size": 16, "intermediate_size": 16, "head_dim": 8, "num_attention_heads": 2}
    config = Qwen3Config(vocab_size=len(tokenizer), num_hidden_layers=1, num_key_value_heads=1, **size)
    Qwen3ForCausalLM(config).save_pretrained(source)

    ranker = Ranker.decoder(str(source), max_length=LENGTH).eval()
    ranker.save(folder)
    (pair,) = ranker.encode([QUERY], TEXTS[:1])
    assert sorted(pair) == ["attention_mask", "input_ids"]
    expected = f"Query: {QUERY}\nDocument: {TEXTS[0]}{tokenizer.eos_token}"
    assert ranker.tokenizer.decode(pair["input_ids"]) == expected
    assert AutoTokenizer.from_pretrained(folder)(QUERY, TEXTS[0])["input_ids"] == pair["input_ids"]
    assert plainly(str(folder), QUERY, TEXTS, 6) == pytest.approx(ranker.score(QUERY, TEXTS), **CLOSE)
    scores = CrossEncoder(str(folder), device="cpu").predict([(QUERY, text) for text in TEXTS])
    assert scores.tolist() == pytest.approx(ranker.score(QUERY, TEXTS), **CLOSE)


def test_a_decoder_whose_tokenizer_has_no_end_token_is_refused(tmp_path: Path) -> None:
    source = causal_lm(tmp_path, ["sort a list"], tied=True)
    config = tmp_path / "tokenizer_config.json"
    content = {key: value for key, value in json.loads(config.read_text()).items() if key != "eos_token"}
    config.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has no eos token; set eos_token in its tokenizer_config\.json"):
        Ranker.decoder(source, max_length=8)


def test_a_long_document_is_cut_before_the_end_token_that_is_scored() -> None:
    ranker = fresh("decoder")
    (pair,) = ranker.encode([QUERY], [TEXTS[4]])
    assert len(pair["input_ids"]) == LENGTH
    assert pair["input_ids"][-1] == ranker.tokenizer.eos_token_id
    text = ranker.tokenizer.decode(pair["input_ids"])
    assert text.startswith(f"Query: {QUERY}\nDocument: open a file")


# ---- tokenizers that lack something --------------------------------------------------------------------------


def bare(folder: Path, source: str, pad: int | None = None, **specials: str) -> str:
    """The folder of a small encoder that may name a pad token, with the words of another model's tokenizer and these
    special tokens only. BERT's own tokenizer class would add its usual ones."""
    backend = AutoTokenizer.from_pretrained(checkpoints.resolve(source)).backend_tokenizer
    backend.no_padding()
    PreTrainedTokenizerFast(tokenizer_object=backend, **specials).save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    tokens = {"pad_token_id": pad, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    torch.manual_seed(0)
    config = ModernBertConfig(vocab_size=backend.get_vocab_size(), num_labels=1, **tokens, **sizes)
    ModernBertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("pad", "expected_pad"), [(0, "[PAD]"), (None, PAD)], ids=["the model's", "a new one"])
def test_an_encoder_whose_tokenizer_has_no_pad_and_no_end_token_scores_batches_as_single_pairs(
    tmp_path: Path, pad: int | None, expected_pad: str
) -> None:
    place = bare(tmp_path / "bare", MINILM, pad, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")
    tokenizer = AutoTokenizer.from_pretrained(place)
    assert tokenizer.pad_token is tokenizer.eos_token is None
    ranker = Ranker.encoder(place, max_length=LENGTH).eval()
    assert ranker.tokenizer.pad_token == expected_pad
    expected = [ranker.score(QUERY, [text])[0] for text in TEXTS]  # one by one, nothing is padded
    assert ranker.score(QUERY, TEXTS) == pytest.approx(expected, **CLOSE)
    ranker.save(tmp_path / "saved")
    scores = CrossEncoder(str(tmp_path / "saved"), device="cpu").predict([(QUERY, text) for text in TEXTS])
    assert scores.tolist() == pytest.approx(expected, **CLOSE)


def test_an_encoder_that_cannot_tell_query_and_document_apart_says_so(tmp_path: Path) -> None:
    place = bare(tmp_path, SMOLLM2, eos_token="<|im_end|>")
    with pytest.raises(ValueError, match=r"puts nothing between query and document.*; choose an encoder"):
        Ranker.encoder(place, max_length=LENGTH)


def test_a_decoder_without_an_end_token_says_what_to_set(tmp_path: Path) -> None:
    place = bare(tmp_path, SMOLLM2, pad_token="<|im_end|>")
    with pytest.raises(ValueError, match=r"has no eos token; set eos_token in its tokenizer_config\.json"):
        Ranker.decoder(place, max_length=LENGTH)


# ---- the judge and the bi-encoder ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge() -> LikelihoodRanker:
    return LikelihoodRanker(checkpoints.resolve(SMOLLM2), template="question", doc_tokens=32, dtype="float32")


def test_the_likelihood_of_a_batch_is_that_of_each_text_alone(judge: LikelihoodRanker) -> None:
    alone = [judge.score(QUERY, [text])[0] for text in TEXTS]
    assert judge.score(QUERY, TEXTS) == pytest.approx(alone, rel=0, abs=1e-3)
    assert judge.score(QUERY, []) == []


def test_the_likelihood_is_the_mean_log_probability_of_the_querys_tokens(judge: LikelihoodRanker) -> None:
    (span,) = judge.plan(QUERY, TEXTS[:1])
    with torch.inference_mode():
        logprobs = judge.model(input_ids=torch.tensor([span.ids])).logits[0].float().log_softmax(-1)
    by_token = [None, *(float(logprobs[place - 1, token]) for place, token in enumerate(span.ids) if place)]
    assert judge.score(QUERY, TEXTS[:1])[0] == pytest.approx(prompts.mean_logprob(by_token, span.start), abs=1e-4)


@pytest.mark.parametrize(
    ("query", "matching", "unrelated"),
    [
        (QUERY, "sorted() returns a new list with the numbers in order.", "The socket is closed by the server."),
        ("What is the capital of France?", "Paris is the capital and largest city of France.", "Cats sleep a lot."),
    ],
)
def test_a_matching_passage_makes_the_query_likelier(
    judge: LikelihoodRanker, query: str, matching: str, unrelated: str
) -> None:
    good, bad = judge.score(query, [matching, unrelated])
    assert good > bad + 0.1


def test_a_likelihood_plan_cuts_document_and_query_and_keeps_the_template(judge: LikelihoodRanker) -> None:
    pieces = load_template(LikelihoodTemplate, "search").pieces
    plan = prompts.LikelihoodPlan(judge.tokenizer, pieces, doc_tokens=5, query_tokens=3)
    spans = plan(QUERY, [TEXTS[4], ""])
    long = judge.tokenizer.decode(spans[0].ids)
    assert long.startswith("Document: open a file and read\nA search query that this document answers:")
    assert [len(span.ids) - span.start for span in spans] == [3, 3]
    assert judge.tokenizer.decode(spans[1].ids[spans[1].start :]) == " how do I"
    with pytest.raises(RradError, match=r"nope.*question, .*search, .*summary"):
        LikelihoodRanker(checkpoints.resolve(SMOLLM2), template="nope", doc_tokens=5)


def test_the_bi_encoder_gives_unit_vectors_in_which_related_texts_are_near() -> None:
    encoder = BiEncoder(checkpoints.resolve(MINILM), max_length=64, dtype="float32")
    texts = [*TEXTS, "sort a list of numbers"]
    vectors = encoder.documents(texts)
    assert vectors.shape == (len(texts), 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    nearness = vectors @ encoder.queries([QUERY])[0]
    assert int(nearness.argmax()) == len(texts) - 1
    alone = np.concatenate([encoder.documents([text]) for text in texts])
    np.testing.assert_allclose(alone, vectors, atol=1e-4)


class Runs:
    """A pickle that makes a file when it is read by a reader that runs what pickles say."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_bi_encoder_whose_own_files_ask_for_pickles_that_run_code_runs_none(tmp_path: Path) -> None:
    folder, mark = tmp_path / "encoder", tmp_path / "has run"
    SentenceTransformer(tiny.save(tmp_path / "tiny", "Bert", "Model")).save(str(folder))
    BiEncoder(str(folder), max_length=16)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(mark), protocol=2))
    for key in ("model_args", "model_kwargs"):
        settings = json.loads((folder / "sentence_bert_config.json").read_text())
        (folder / "sentence_bert_config.json").write_text(json.dumps(settings | {key: {"weights_only": False}}))
        with pytest.raises(Exception, match=r"(?i)weights|load"):
            BiEncoder(str(folder), max_length=16)
    assert not mark.exists()


# ---- where models come from ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("/no/such/folder", "no such model folder"),
        ("./gone", "no such model folder"),
        ("gone", "no such model folder"),
        ("bundled:gpt-7", "no such bundled model"),
        ("nobody/no-such-model", "neither a local folder nor to be had from the hub"),
    ],
)
def test_a_model_that_is_not_there_is_named_with_the_remedy(name: str, found: str) -> None:
    with pytest.raises(RradError) as caught:
        checkpoints.resolve(name)
    assert (caught.value.stage, caught.value.place) == ("judge", name)
    assert found in caught.value.problem
    assert caught.value.remedy


def test_an_unknown_bundled_model_lists_the_known_ones() -> None:
    with pytest.raises(RradError, match=f"{MINILM}, {SMOLLM2}"):
        checkpoints.resolve("bundled:x")


def test_the_output_of_train_resolves_to_its_checkpoint_and_a_plain_folder_to_itself(tmp_path: Path) -> None:
    assert checkpoints.resolve(str(tmp_path)) == str(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert checkpoints.resolve(str(tmp_path)) == str(tmp_path / "model")


def test_a_checkpoint_on_s3_is_downloaded_once_per_content(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rrad_ray import tables

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(RradError, match="no model there"):
        checkpoints.resolve(s3_uri)
    tables.write_text(f"{s3_uri}/model/config.json", "{}")
    tables.write_text(f"{s3_uri}/model/sub/a.txt", "one")
    folder = checkpoints.resolve(s3_uri)
    assert Path(folder, "config.json").read_text() == "{}"
    assert Path(folder, "sub", "a.txt").read_text() == "one"
    assert checkpoints.resolve(f"{s3_uri}/model") == checkpoints.resolve(s3_uri) == folder
    tables.write_text(f"{s3_uri}/model/sub/a.txt", "two")
    assert Path(checkpoints.resolve(s3_uri), "sub", "a.txt").read_text() == "two"
