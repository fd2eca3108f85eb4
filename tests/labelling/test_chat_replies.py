"""What an endpoint replies, or a gateway before it, is an answer or an error of its query; nothing breaks a run."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._models import construct_type
from openai.types.chat import ChatCompletion

from rrad_ray.errors import InvalidInput
from rrad_ray.labelling.answers import parse_answer
from rrad_ray.labelling.chat_replies import read_reply
from rrad_ray.labelling.label_tokens import endpoint_logprobs


def as_client_gives(content: Any) -> Any:
    return construct_type(type_=ChatCompletion, value=content)


def reply(message: Any, **more: Any) -> Any:
    return as_client_gives({"choices": [{"index": 0, "message": message, **more}], "usage": None})


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[2] > [1]", "[2] > [1]"),
        (None, ""),
        ([{"type": "text", "text": "[2] >"}, {"type": "text", "text": " [1]"}], "[2] > [1]"),
        ([{"type": "thinking", "thinking": [{"text": "[1]"}]}, {"type": "text", "text": "[2] > [1]"}], "[2] > [1]"),
        ("[2] > [1] \ud83d", "[2] > [1] \N{REPLACEMENT CHARACTER}"),
    ],
)
def test_an_answer_may_come_in_parts_or_end_within_a_character(content: Any, text: str) -> None:
    read = read_reply(reply({"role": "assistant", "content": content}))
    assert (read.text, read.tokens) == (text, {"prompt_tokens": 0, "generated_tokens": 0})


@pytest.mark.parametrize(
    "content",
    [
        "<html>log in</html>",
        'data: {"choices": []}\n\ndata: [DONE]',
        [1],
        None,
        {"error": {"message": "quota"}},
        {"choices": None},
        {"choices": []},
        {"choices": [{}]},
        {"choices": [{"message": {"content": 3}}]},
        {"choices": [{"text": "[2] > [1]"}]},
        {"choices": [{"message": {"content": "x"}}], "usage": "5"},
        {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": -1}},
        {"choices": [{"message": {"content": "x"}, "logprobs": {"content": ["yes"]}}]},
        {"choices": [{"message": {"content": "x"}, "logprobs": {"content": [{"token": "yes", "logprob": 0}]}}]},
    ],
)
def test_a_reply_that_is_no_chat_completion_is_an_error_with_its_beginning(content: Any) -> None:
    with pytest.raises(InvalidInput, match=r"no chat completion \(.+\): .+; check openai.url and openai.request"):
        read_reply(as_client_gives(content) if isinstance(content, dict) else content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "text", "usage", "prompt_tokens", "logprobs", "token"])
            | st.sampled_from(["top_logprobs", "logprob", "completion_tokens"]),
            inner,
            max_size=4,
        )
    ),
)


@given(JSON, st.sampled_from(["reply", "choice", "message", "usage", "logprobs"]))
def test_any_reply_is_read_or_refused_in_words(value: Any, where: str) -> None:
    choice = {"message": value if where == "message" else {"content": "x"}}
    choice |= {"logprobs": value} if where == "logprobs" else {}
    whole = {"choices": [value if where == "choice" else choice]} | ({"usage": value} if where == "usage" else {})
    try:
        read = read_reply(as_client_gives(value if where == "reply" else whole))
        read.text.encode()
        assert all(0 <= tokens <= 2**53 for tokens in read.tokens.values())
        assert all(isinstance(logprob, float) for _, logprob in read.likely)
    except InvalidInput as error:
        str(error).encode(errors="strict")


@pytest.mark.parametrize("text", ["", " \n", None])
def test_an_answer_without_text_is_an_error_that_says_what_ended_it(text: str | None) -> None:
    """A model that thinks may have spent all its tokens on that."""
    reply = read_reply({"choices": [{"message": {"content": text}, "finish_reason": "length"}]})
    with pytest.raises(InvalidInput, match=r"has no text \(finish_reason: length\)") as caught:
        reply.check_text()
    assert "raise max_tokens" in caught.value.remedy


@pytest.mark.parametrize("n", [2, 3])
def test_an_order_that_its_model_does_not_end_is_an_error_unless_all_documents_are_in_it(n: int) -> None:
    """Documents that it does not come to are not left out by the model."""
    remedies = {"length": "raise max_tokens", "MAX_TOKENS": "raise max_tokens", "content_filter": "ask again"}
    remedies |= {"SAFETY": "ask again", "abort": "ask again"}
    for finish in (*remedies, "stop", "eos_token", "COMPLETE", None, 7):
        reply = read_reply({"choices": [{"message": {"content": "[2] > [1]"}, "finish_reason": finish}]})
        says = rf"cut off \(finish_reason: {finish}\); {remedies.get(str(finish))}"
        with pytest.raises(InvalidInput, match=says) if finish in remedies and n == 3 else nullcontext():
            reply.check_order(parse_answer(reply.text, n))


def test_a_label_that_an_endpoint_rules_out_has_no_probability() -> None:
    assert endpoint_logprobs([("yes", -0.1), ("no", -math.inf)], {"yes": 1.0, "no": 0.0}) == [-0.1, -math.inf]
