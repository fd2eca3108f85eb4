"""Packed examples are as if each stood alone; token loss and perplexity are exact; nothing is dropped in silence."""

from __future__ import annotations

import math
import random
import tracemalloc
from array import array
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from rrad_ray import prompts
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.tables import checkpoints
from rrad_ray.training import packing
from rrad_ray.training.packing import Example

pytestmark = pytest.mark.usefixtures("one_thread")
SMOLLM2 = checkpoints.BUNDLED[1]
CLICKS = [
    {"query": "sort a list", "title": "sorted()", "summary": "returns a new sorted list from the items"},
    {"query": "how to open a file and read it line by line", "title": "open()", "summary": ""},
    {"query": "排序", "title": "列表", "summary": "🐍 " * 8},
    {"query": "json", "title": "The json module", "summary": "reads and writes JSON. " * 6},
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(checkpoints.resolve(SMOLLM2))


@pytest.fixture(scope="module")
def model() -> Any:
    """Two layers of a real model in float32."""
    return AutoModelForCausalLM.from_pretrained(
        checkpoints.resolve(SMOLLM2), dtype=torch.float32, num_hidden_layers=2
    ).eval()


@pytest.fixture(scope="module")
def examples(tokenizer: Any) -> list[Example]:
    return list(packing.from_clicks(CLICKS, tokenizer, 256, pytest.fail))


def alone(model: Any, example: Example) -> torch.Tensor:
    """Return the logits (T, V) of an example's target tokens, computed by transformers alone."""
    with torch.inference_mode():
        logits = model(torch.tensor([list(example.ids)])).logits[0]
    return logits[example.start - 1 : -1]


def together(model: Any, examples: list[Example]) -> list[torch.Tensor]:
    """Return the logits of each example out of one packed pass."""
    joined = packing.join_examples(examples)
    with torch.inference_mode():
        logits = packing.logits(model, joined)
    return list(logits.tensor_split(joined.first_E[1:]))


# ---- no example sees another --------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_logits_and_the_loss_of_a_packed_example_are_those_of_the_example_alone(
    model: Any, examples: list[Example], attention: str
) -> None:
    model.set_attn_implementation(attention)
    for logits, example in zip(together(model, examples), examples, strict=True):
        expected = alone(model, example)
        torch.testing.assert_close(logits, expected, rtol=0, atol=2e-4)
        wanted = torch.tensor(list(example.ids[example.start :]))
        loss = torch.nn.functional.cross_entropy(expected, wanted)
        assert float(packing.nll(logits, wanted).mean()) == pytest.approx(float(loss), abs=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_another_example_beside_it_changes_nothing_of_an_example(
    model: Any, examples: list[Example], attention: str
) -> None:
    model.set_attn_implementation(attention)
    before = together(model, examples)
    for changed in range(len(examples)):
        other = Example([token + 1 for token in examples[changed].ids], examples[changed].start)
        after = together(model, [other if index == changed else one for index, one in enumerate(examples)])
        for index in range(len(examples)):
            assert torch.equal(after[index], before[index]) == (index != changed)


def test_without_positions_that_begin_again_examples_would_see_each_other(
    model: Any, examples: list[Example]
) -> None:
    """So the comparisons above can fail."""
    one = Example([token for example in examples for token in example.ids], examples[0].start)
    target = slice(-(len(examples[-1].ids) - examples[-1].start), None)
    assert float((together(model, [one])[0][target] - alone(model, examples[-1])).abs().max()) > 0.1


SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(
    "config",
    [
        transformers.MistralConfig(**SMALL, num_key_value_heads=2, intermediate_size=64, sliding_window=6),
        transformers.Gemma3TextConfig(
            **SMALL,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=64,
            sliding_window=6,
            layer_types=["sliding_attention", "full_attention"],
        ),
    ],
    ids=["mistral", "gemma3"],
)
def test_sliding_windows_stay_what_they_are_in_a_packed_sequence(config: Any) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    source = random.Random(0)
    examples = [Example([source.randrange(64) for _ in range(length)], 2) for length in (9, 14, 3, 20)]
    packing.check_isolation(model)
    for logits, example in zip(together(model, examples), examples, strict=True):
        torch.testing.assert_close(logits, alone(model, example), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4),
        transformers.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2),
    ],
    ids=["bloom", "mamba"],
)
def test_a_model_that_cannot_keep_examples_apart_is_refused(config: Any) -> None:
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ValueError, match="lets packed examples see each other; choose a transformer"):
        packing.check_isolation(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_keeps_them_apart_passes(model: Any, dtype: torch.dtype) -> None:
    packing.check_isolation(model.to(dtype))
    model.to(torch.float32)


# ---- examples -----------------------------------------------------------------------------------------------


def test_a_click_becomes_the_text_that_the_decoder_student_reads_token_by_token(examples: list[Example]) -> None:
    ranker = Ranker.decoder(checkpoints.resolve(SMOLLM2), max_length=256, layers=1)
    for click, example in zip(CLICKS, examples, strict=True):
        document = prompts.clicked(click["title"], click["summary"])
        assert list(example.ids) == ranker.tokenizer(click["query"], document)["input_ids"]


def test_the_target_is_title_summary_and_end_and_of_an_empty_summary_the_title_alone(
    tokenizer: Any, examples: list[Example]
) -> None:
    texts = [
        (tokenizer.decode(list(one.ids[: one.start])), tokenizer.decode(list(one.ids[one.start :])))
        for one in examples[:2]
    ]
    assert texts == [
        ("Query: sort a list\nDocument:", " sorted()\nreturns a new sorted list from the items<|im_end|>"),
        ("Query: how to open a file and read it line by line\nDocument:", " open()<|im_end|>"),
    ]
    assert not any(one.cut for one in examples)


def test_a_target_that_does_not_fit_loses_its_end_and_says_so(tokenizer: Any, examples: list[Example]) -> None:
    length = len(examples[3].ids)
    [whole] = packing.from_clicks(CLICKS[3:], tokenizer, length, pytest.fail)
    [cut] = packing.from_clicks(CLICKS[3:], tokenizer, length - 1, pytest.fail)
    assert (whole.cut, cut.cut) == (False, True)
    assert list(cut.ids) == list(whole.ids)[:-1]
    assert cut.start == whole.start


def test_a_query_that_leaves_no_room_is_set_aside_with_the_reason_and_the_others_stay(tokenizer: Any) -> None:
    reasons: list[packing.ExampleSkipped] = []
    long = {"query": "which function adds numbers " * 20, "title": "sum", "summary": ""}
    [one] = packing.from_clicks([long, CLICKS[0]], tokenizer, 32, reasons.append)
    assert tokenizer.decode(list(one.ids)).startswith("Query: sort a list")
    [reason] = reasons
    assert reason.category == "prompt too long"
    assert reason.detail.endswith("tokens without the target, max_length is 32")
    assert str(reason) == f"{reason.category}: {reason.detail}"


def test_a_tokenizer_without_an_end_is_an_error_and_one_without_padding_is_not() -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints.resolve(SMOLLM2))
    tokenizer.pad_token = None
    assert len(list(packing.from_clicks(CLICKS, tokenizer, 64, pytest.fail))) == len(CLICKS)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"has no eos token; set eos_token in its tokenizer_config\.json"):
        list(packing.from_clicks(CLICKS, tokenizer, 64, pytest.fail))


# ---- packing ------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 40)), st.integers(40, 100))
def test_packing_places_each_example_once_and_no_sequence_is_too_long(lengths: list[int], room: int) -> None:
    groups = packing.pack(lengths, room)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in group) <= room for group in groups)
    sums = sorted(sum(lengths[index] for index in group) for group in groups)
    assert len(sums) < 2 or sums[0] + sums[1] > room, "two sequences would have fitted into one"


def test_packing_fits_exactly_where_it_can() -> None:
    assert packing.pack([5, 3, 7, 5], 10) == [[2, 1], [0, 3]]
    with pytest.raises(ValueError, match="11 tokens does not fit into 10"):
        packing.pack([11], 10)


@pytest.mark.parametrize(("count", "room"), [(2000, 1024), (2000, 512), (20_000, 4096)])
def test_less_than_five_percent_of_the_room_is_left_empty_by_lengths_as_uneven_as_a_click_logs(
    count: int, room: int
) -> None:
    """Title and summary of a page: log-normal around 60 tokens, the longest cut to the room."""
    source = random.Random(0)
    lengths = [min(room, 8 + round(source.lognormvariate(4.0, 0.8))) for _ in range(count)]
    groups = packing.pack(lengths, room)
    assert 1 - sum(lengths) / (len(groups) * room) < 0.05
    one_by_one, left = 1, room
    for length in lengths:
        if length > left:
            one_by_one, left = one_by_one + 1, room
        left -= length
    assert len(groups) < one_by_one, "no better than in the order they come"


# ---- perplexity ---------------------------------------------------------------------------------------------


def test_perplexity_is_exp_of_the_mean_over_all_target_tokens_whatever_the_packing(
    model: Any, examples: list[Example]
) -> None:
    total, count = 0.0, 0
    for example in examples:
        chances = alone(model, example).double().log_softmax(-1)
        for row, token in zip(chances, example.ids[example.start :], strict=True):
            total, count = total - float(row[token]), count + 1
    longest = max(len(example.ids) for example in examples)
    for room in (longest, 256):
        assert packing.mean_nll(model, examples, room) == pytest.approx(total / count, abs=1e-5)
    per_example = [packing.mean_nll(model, [example], 256) for example in examples]
    assert abs(sum(per_example) / len(per_example) - total / count) > 0.01, "not the mean of the examples' means"
    assert math.isnan(packing.mean_nll(model, [], 256))


# ---- on disk ------------------------------------------------------------------------------------------------


def test_examples_on_disk_come_back_as_they_were_and_memory_holds_only_where_they_stand() -> None:
    def some() -> Iterator[Example]:
        for number in range(20_000):
            yield Example(array("i", range(3 + number % 40)), 2, number % 3 == 0)
        yield Example(array("i", range(9)), 4, names=(5, 6, 7), targets=(0.5, 0.0, 1.0), name_index=6)

    on_disk, expected = packing.DiskExamples(), list(some())
    tracemalloc.start()
    on_disk.extend(some())
    own = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, packing.__file__)])  # no other thread's
    tracemalloc.stop()
    held = sum(trace.size for trace in own.traces)
    assert list(on_disk) == expected
    assert (len(on_disk), on_disk[-1], on_disk[5:8]) == (len(expected), expected[-1], expected[5:8])
    assert 8 * len(expected) <= held < 16 * len(expected), "the tokens alone are ten times as much"
    with pytest.raises(IndexError):
        on_disk[len(expected)]


def test_sequences_packed_from_disk_are_those_packed_from_memory() -> None:
    examples = [Example(array("i", range(4 + number % 17)), 2) for number in range(60)]
    from_disk = packing.pack_examples(packing.DiskExamples(examples), 32)
    assert list(from_disk) == list(packing.pack_examples(examples, 32))
