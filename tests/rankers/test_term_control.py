"""Token Selection in many scripts and tokenizers, and the Term Control Layer: there in training, nowhere else."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as kinds
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from rrad_ray.config import TermsConfig, TrainConfig
from rrad_ray.config.load import build_config
from rrad_ray.errors import RradError
from rrad_ray.languages.analyser import analyser
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.rankers.term_control import TermControl, select
from rrad_ray.tables import checkpoints
from rrad_ray.training.optimizer import MasterAdamW
from rrad_ray.training.rank_task import RankTask
from tests import toys
from tests.toys import Listener, fitted

pytestmark = pytest.mark.usefixtures("one_thread")

# Query, and a text in which <...> stands around what belongs to a term of the query.
SENTENCES = [
    ("How do I sort a list?", "sort_list(lst): <Sorts>. <Sort> a <LIST>, resort"),
    ("Größe einer Datei", "die <GRÖSSE>, die <Größe> und größer; <EINER>"),
    ("café in Paris", "<Cafe\u0301> in Lyon, <ｐａｒｉｓ>, <cafes>"),
    ("हिन्दी भाषा", "<हिन्दी>, <हिन्द>; <भाषा>।"),
    # Korean: pairs of syllables, without the particle at a word's end.
    ("서울 맛집 추천", "<서울>에서 유명한 <맛집>은 <추천>하지 않는다"),
    ("서울에서 먹은 사과", "<서울>은 크다. 사이가 좋다. <서울>에서는 <사과>를 먹었다"),
    ("고양이 책", "<고양>이가 <책> 한 권을 본다. <고양>시의 정책"),
    ("API를 호출", "<API>는 <호출>이 가능하다"),
    # Chinese: pairs of characters.
    ("北京的天气", "<北京>今天<天气>很好，北方不好"),
    ("排序列表 Python", "用<python>对<列表>进行<排序>。"),
    # Japanese: pairs too, and single Han characters that are words; endings in Hiragana are left out.
    ("猫の写真を撮る", "黒<猫>が<写真>の中で眠る。<撮>影"),
    ("コンピュータのデータ", "デジタル<データ>、<コンピュータ>ー。カメラ"),
    ("りんごを食べた", "青い<りんご>が落ちた。<食べ>物"),
    ("カメラ", "デジタル<カメラ>と<カメ>"),
    ("?! …", "nothing to match: ?!"),
    ("sort", ""),
]


def unmarked(marked: str) -> tuple[str, list[range]]:
    """The text, and where its marked words stand."""
    pieces = marked.replace(">", "<").split("<")
    starts = [sum(map(len, pieces[:number])) for number in range(len(pieces))]
    return "".join(pieces), [range(starts[i], starts[i] + len(pieces[i])) for i in range(1, len(pieces), 2)]


@pytest.mark.parametrize(("query", "marked"), SENTENCES)
def test_terms_of_the_query_are_found_in_a_text_whatever_its_script(query: str, marked: str) -> None:
    text, words = unmarked(marked)
    assert [range(*span) for span in analyser().marks(query, text)] == words


# ---- tokenizers ---------------------------------------------------------------------------------------------

CORPUS = [part for query, marked in SENTENCES for part in (query, unmarked(marked)[0])]


def built(model: Any, trainer: Any, before: Any, decoder: Any, pair: str, normalizer: Any = None) -> Any:
    """A small tokenizer trained on the sentences above, with a template for pairs."""
    names = pair.replace("$A", "").replace("$B", "").split()
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = before, decoder
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(CORPUS * 2, trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in dict.fromkeys(names)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=pair.partition("$B")[0].strip(), pair=pair, special_tokens=ends
    )
    first, last = names[0], names[-1]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token=first, sep_token=last, pad_token="<pad>", unk_token="<unk>"
    )


def byte_level() -> Any:
    """As RoBERTa and ModernBERT: characters are bytes, spaces belong to the word behind them."""
    special = ["<s>", "</s>", "<pad>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    before = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return built(kinds.BPE(), trainer, before, decoders.ByteLevel(), "<s> $A </s> </s> $B </s>")


def sentencepiece() -> Any:
    """As XLM-R and DeBERTa-v2 have: a unigram model over text whose spaces are marked."""
    special = ["[CLS]", "[SEP]", "<pad>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False)
    before, decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return built(kinds.Unigram(), trainer, before, decoder, "[CLS] $A [SEP] $B [SEP]", normalizers.NFKC())


def wordpiece() -> Any:
    return AutoTokenizer.from_pretrained(checkpoints.resolve(checkpoints.BUNDLED[0]))


TOKENIZERS = {"wordpiece": wordpiece, "byte-level": byte_level, "sentencepiece": sentencepiece}


@pytest.fixture(scope="module", params=list(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


def encoded(tokenizer: Any, query: str, text: str, **options: Any) -> Any:
    return tokenizer([query], [text], **options).encodings[0]


@pytest.mark.parametrize(("query", "marked"), SENTENCES)
def test_the_tokens_of_matching_words_are_selected_and_no_others(tokenizer: Any, query: str, marked: str) -> None:
    text, words = unmarked(marked)
    encoding = encoded(tokenizer, query, text)
    found, touched = [], set[range]()
    for (start, end), part in zip(encoding.offsets, encoding.sequence_ids, strict=True):
        inside = [word for word in words if part == 1 and max(start, word.start) < min(end, word.stop)]
        found.append(bool(inside))
        touched |= set(inside)
    assert select(query, text, encoding) == found
    assert touched == set(words), "each matching word has a token"


def test_equal_token_ids_are_another_way_to_match_without_punctuation(tokenizer: Any) -> None:
    query, text = "sort a list, now", "now, the LIST is a list: sort sorted"
    encoding = encoded(tokenizer, query, text)
    asked = {token for token, part in zip(encoding.ids, encoding.sequence_ids, strict=True) if part == 0}
    chosen = select(query, text, encoding, "token")
    for place, (token, part, (start, end)) in enumerate(
        zip(encoding.ids, encoding.sequence_ids, encoding.offsets, strict=True)
    ):
        letters = any(char.isalnum() for char in text[start:end])
        assert chosen[place] == (part == 1 and token in asked and letters)
    assert 0 < sum(chosen) < encoding.sequence_ids.count(1)


def test_a_word_that_truncation_cuts_is_still_compared_whole() -> None:
    query, text = "sort numbers", "sortable sortie numbers sortzzz"
    encoding = encoded(wordpiece(), query, text, truncation="only_second", max_length=11)
    assert encoding.tokens[-2:] == ["sort", "[SEP]"], "the cut runs through the last word"
    chosen = select(query, text, encoding)
    assert [token for token, selected in zip(encoding.tokens, chosen, strict=True) if selected] == ["numbers"]


# ---- the layer ----------------------------------------------------------------------------------------------

STATES = torch.tensor([[[1.0, 0.0], [2.0, -4.0], [6.0, 2.0], [100.0, 100.0]]])  # one pair: [CLS] and three tokens
SELECTED = torch.tensor([[False, True, True, False]])


def layer(pooling: str, gate: bool = False) -> TermControl:
    made = TermControl(2, pooling=pooling, gate=gate)
    with torch.no_grad():
        made.score.weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
        made.score.bias.fill_(0.5)
        if made.attention is not None:
            made.attention.weight.copy_(torch.tensor([[0.0, 1.0]]))
            made.attention.bias.zero_()
    return made


def test_the_score_is_linear_in_cls_and_the_pooled_states_of_selected_tokens() -> None:
    assert layer("mean")(STATES, SELECTED).tolist() == [1.0 + 0.0 + 400.0 - 1000.0 + 0.5]
    assert layer("max")(STATES, SELECTED).tolist() == [1.0 + 0.0 + 600.0 + 2000.0 + 0.5]
    share = 1 / (1 + math.exp(-6.0))  # of the softmax of -4 and 2
    expected = 1.5 + 100 * (2 + 4 * share) + 1000 * (-4 + 6 * share)
    assert layer("attention")(STATES, SELECTED).tolist() == pytest.approx([expected], rel=1e-6)


def test_the_gate_weighs_each_pooled_dimension_by_what_cls_says() -> None:
    gated = layer("mean", gate=True)
    assert gated.gate is not None
    with torch.no_grad():
        gated.gate.weight.copy_(torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]]))
        gated.gate.bias.zero_()
    found = gated(STATES, SELECTED).tolist()
    assert found == pytest.approx([1.5 + 0.5 * 400.0 - 0.75 * 1000.0], rel=1e-6)  # sigmoid(0) and sigmoid(log 3)


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_without_a_selected_token_the_score_is_that_of_cls_and_its_gradient_is_finite(
    pooling: str, gate: bool
) -> None:
    states = STATES.clone().requires_grad_()
    made = layer(pooling, gate)
    score = made(states, torch.zeros_like(SELECTED))
    assert score.tolist() == [1.5]
    score.sum().backward()
    assert states.grad is not None
    assert states.grad.tolist() == [[[1.0, 10.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]


# ---- training -----------------------------------------------------------------------------------------------

TINY = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
ARCHITECTURES = {
    "bert": (wordpiece, BertConfig, TINY),
    "roberta": (byte_level, RobertaConfig, TINY | {"max_position_embeddings": 64}),
    "xlm-roberta": (sentencepiece, XLMRobertaConfig, TINY | {"max_position_embeddings": 64}),
    "deberta-v2": (sentencepiece, DebertaV2Config, TINY | RELATIVE),
    "modernbert": (byte_level, ModernBertConfig, TINY),
}
CFG = dataclasses.replace(toys.CFG, terms=TermsConfig(weight=0.5, pooling="attention"))


# Each text has two words of its query.
ROWS = [
    row | {"query": f"{row['query']} can", "texts": [f"question {text}" for text in row["texts"]]}
    for row in toys.ROWS
]


def tiny(name: str, folder: Path) -> str:
    """The folder of a small model of this architecture, drawn at random, with a tokenizer of its kind."""
    tokenizer, config, sizes = ARCHITECTURES[name]
    made = tokenizer()
    torch.manual_seed(0)
    options = {"vocab_size": len(made), "pad_token_id": made.pad_token_id, "num_labels": 1}
    specials = {"bos_token_id": 0, "eos_token_id": 1, "cls_token_id": 0, "sep_token_id": 1}
    AutoModelForSequenceClassification.from_config(config(**sizes, **options, **specials)).save_pretrained(folder)
    made.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny("bert", tmp_path_factory.mktemp("bert"))


def task(source: str, cfg: TrainConfig = CFG) -> RankTask:
    torch.manual_seed(7)
    return RankTask(Ranker.encoder(source, max_length=CFG.max_length), cfg)


def trained(made: RankTask, cfg: TrainConfig, folder: Path | None = None, **more: Any) -> Listener:
    return fitted(made, cfg, folder, rows=ROWS, **more)


def changed(**changes: Any) -> TrainConfig:
    return dataclasses.replace(CFG, **changes)


QUERY, TEXTS = "sort a list", ["sort lists", "a list to sort", "open files", "numbers"]


def test_the_layers_loss_reaches_the_encoder_and_its_scores_are_the_plain_ones(source: str) -> None:
    with_layer, without = task(source), task(source, changed(terms=TermsConfig()))
    assert without.terms is None
    parts = with_layer(ROWS[:4])
    assert list(parts) == ["rank", "terms"]
    assert float(parts["rank"].detach()) == pytest.approx(float(without(ROWS[:4])["rank"].detach()), abs=1e-6)
    parts["terms"].backward()
    reached = {name for name, weight in with_layer.ranker.named_parameters() if weight.grad is not None}
    first_layer = {name for name in reached if ".layer.0." in name or ".layers.0." in name}
    assert first_layer
    assert with_layer.terms is not None
    weights = dict(with_layer.ranker.named_parameters())
    matrices = [weights[name] for name in first_layer if weights[name].ndim > 1]
    for weight in (*matrices, *(layer.weight for layer in with_layer.terms.children())):
        assert weight.grad.abs().max() > 0
    assert not {name for name in reached if "classifier" in name}, "the plain head is not the layer's"
    for made in (with_layer, without):
        made.eval()
    assert with_layer.ranker.score(QUERY, TEXTS) == without.ranker.score(QUERY, TEXTS)


def test_a_student_trained_with_the_layer_is_saved_as_a_plain_encoder(source: str, tmp_path: Path) -> None:
    made = task(source)
    listener = trained(made, changed(max_steps=3), tmp_path)
    assert {"loss", "loss_rank", "loss_terms"} <= set(listener.heard[-1])
    folder = tmp_path / "step-3"
    names = set(load_file(folder / "model.safetensors"))
    assert names == set(AutoModelForSequenceClassification.from_pretrained(source).state_dict())
    expected = made.eval().ranker.score(QUERY, TEXTS)
    assert Ranker.load(str(folder), dtype="float32").score(QUERY, TEXTS) == pytest.approx(expected, abs=1e-5)
    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    inputs = tokenizer([QUERY] * len(TEXTS), TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        assert model.eval()(**inputs).logits[:, 0].tolist() == pytest.approx(expected, abs=1e-5)


def weights_after(source: str, cfg: TrainConfig, **more: Any) -> dict[str, Tensor]:
    made = task(source, cfg)
    trained(made, cfg, **more)
    return made.state_dict()


def test_a_weight_of_zero_trains_exactly_as_without_the_layer(bert: str) -> None:
    off = changed(max_steps=4, terms=TermsConfig())
    other = changed(max_steps=4, terms=TermsConfig(weight=0.0, match="token", pooling="max", gate=False))
    one, same = weights_after(bert, off), weights_after(bert, other)
    assert set(one) == set(same)
    assert all(torch.equal(one[name], same[name]) for name in one)
    layered = weights_after(bert, changed(max_steps=4))
    assert max(float((layered[name] - one[name]).abs().max()) for name in one) > 1e-4


def test_a_killed_run_goes_on_with_the_layer_as_it_stood(bert: str, tmp_path: Path) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    whole.mkdir()
    again.mkdir()
    undisturbed = weights_after(bert, CFG, folder=whole)
    resumed = weights_after(bert, CFG, folder=again, resume=whole / "step-6")
    halfway = weights_after(bert, changed(max_steps=6))
    layer_weights = [name for name in undisturbed if name.startswith("terms.")]
    assert len(layer_weights) == 6  # attention, gate and score
    for name in undisturbed:
        assert (resumed[name] - undisturbed[name]).abs().max() < 1e-5, name
    assert max(float((halfway[name] - undisturbed[name]).abs().max()) for name in layer_weights) > 1e-3


def test_training_with_the_layer_lowers_both_losses() -> None:
    cfg = changed(max_steps=19, losses={"ranknet": 1.0}, eval_steps=1, layers=2, lr=1e-3)
    torch.manual_seed(7)
    ranker = Ranker.encoder(checkpoints.resolve(checkpoints.BUNDLED[0]), max_length=CFG.max_length, layers=2)
    listener = trained(RankTask(ranker, cfg), cfg)
    for name in ("loss_rank", "loss_terms"):
        each = listener.each(name)
        assert len(each) == 19
        assert sum(each[-4:]) < 0.7 * sum(each[:4]), name


def test_the_layer_costs_no_forward_pass_of_the_encoder(bert: str) -> None:
    counts = []
    for terms in (TermsConfig(), CFG.terms):
        made, passes = task(bert, changed(terms=terms)), list[int]()
        made.model.base_model.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        made(ROWS[:4])
        counts.append(len(passes))
        assert len(made.model.base_model._forward_hooks) == 1, "no hook stays behind"
    assert counts[0] == counts[1] > 0


def test_under_ddp_the_layer_trains_the_same(bert: str, tmp_path: Path) -> None:
    alone = weights_after(bert, changed(max_steps=3))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        together = weights_after(bert, changed(max_steps=3))
    finally:
        dist.destroy_process_group()
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], atol=1e-6, rtol=0)


def test_the_layer_is_the_same_for_a_seed_whatever_was_drawn_before(bert: str) -> None:
    one = task(bert)
    torch.manual_seed(99)
    other = RankTask(one.ranker, CFG)
    after = torch.rand(1)
    torch.manual_seed(99)
    assert torch.equal(torch.rand(1), after), "making the layer draws nothing from the process's own numbers"
    assert one.terms is not None
    assert other.terms is not None
    assert all(torch.equal(a, b) for a, b in zip(one.terms.parameters(), other.terms.parameters(), strict=True))


def test_the_layers_weights_train_at_the_heads_rate(bert: str) -> None:
    made = task(bert)
    optimizer = MasterAdamW(made, CFG, made.is_head)
    head = {id(weight) for weight in optimizer.weights[: len(optimizer.optimizer.param_groups[0]["params"])]}
    assert {name for name, weight in made.named_parameters() if id(weight) in head} == {
        "ranker.model.classifier.weight",
        "ranker.model.classifier.bias",
        *(f"terms.{name}.{part}" for name in ("attention", "gate", "score") for part in ("weight", "bias")),
    }


def test_a_slow_tokenizer_is_refused_with_the_remedy(bert: str) -> None:
    ranker = task(bert, changed(terms=TermsConfig())).ranker
    ranker.tokenizer = SimpleNamespace(is_fast=False)
    with pytest.raises(ValueError, match=r"terms.weight: Token Selection needs a fast tokenizer; set it to 0"):
        RankTask(ranker, CFG)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weight": -1.0}, "terms.weight=-1.0"),
        ({"match": "stem"}, "choose one of word, token"),
        ({"pooling": "sum"}, "choose one of mean, max, attention"),
    ],
)
def test_a_config_that_makes_no_sense_says_so(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RradError, match=says):
        build_config(TrainConfig, {"input": "in", "output": "out", "terms": changes}, "c.yaml")


def test_a_decoder_has_no_such_layer() -> None:
    with pytest.raises(ValueError, match=r"terms.weight=0.5: only for kind=encoder"):
        changed(kind="decoder")
