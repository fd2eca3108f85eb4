"""Read the replies of an OpenAI-compatible endpoint, of whose fields its client checks no type.

Gateways answer in an endpoint's place too: with a page that asks to log in, with an error, or with a stream.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from rrad_ray.errors import InvalidInput
from rrad_ray.labelling.answers import ParsedOrder
from rrad_ray.languages.scripts import whole_characters

# What begins the errors of answers that their tokens end.
NO_TEXT, ORDER_CUT = "the answer has no text", "the order is cut off"

MORE_TOKENS = "raise max_tokens (or max_completion_tokens in openai.request), or have the model think less"

OUT_OF_TOKENS = ("length", "max_tokens", "model_length")

# Why an answer ends that its model did not end, as endpoints and the gateways before others say it, in small letters.
CUT_BY = (
    *OUT_OF_TOKENS,
    *("content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii"),
    *("error", "abort", "aborted", "cancelled", "incomplete", "insufficient_system_resource"),
)

_MOST_TOKENS = 2**53


def _whole_characters(value: Any) -> Any:
    """Mend a text that `max_tokens` has cut inside an emoji."""
    return whole_characters(value) if isinstance(value, str) else value


_Text = Annotated[str, BeforeValidator(_whole_characters)]
_Tokens = Annotated[int, Field(ge=0, le=_MOST_TOKENS)] | None


class _Part(BaseModel):
    text: _Text = ""  # parts of other types have none: thoughts, images


class _Message(BaseModel):
    content: _Text | list[_Part] | None = None


class _LikelyToken(BaseModel):
    token: _Text
    logprob: float


class _FirstToken(BaseModel):
    top_logprobs: list[_LikelyToken]


class _Logprobs(BaseModel):
    content: list[_FirstToken] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: Any = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: _Tokens = None
    completion_tokens: _Tokens = None


class ChatReply(BaseModel):
    """The fields of a chat completion that `judge` reads."""

    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None

    @property
    def text(self) -> str:
        """The answer; of one that comes in parts, its parts of text."""
        content = self.choices[0].message.content or ""
        return content if isinstance(content, str) else "".join(part.text for part in content)

    def check_text(self) -> None:
        """Raise `InvalidInput` for an answer without text."""
        if not self.text.strip():
            raise InvalidInput(f"{NO_TEXT} (finish_reason: {self.choices[0].finish_reason})", MORE_TOKENS)

    def check_order(self, order: ParsedOrder) -> None:
        """Raise `InvalidInput` where the answer was ended before its `order` does: the documents that it does not
        come to would be taken for left out."""
        reason = str(self.choices[0].finish_reason)
        if reason.lower() in CUT_BY and (order.rejected or order.missing):
            remedy = MORE_TOKENS if reason.lower() in OUT_OF_TOKENS else "ask again, or another endpoint"
            raise InvalidInput(f"{ORDER_CUT} (finish_reason: {reason})", remedy)

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens of prompt and answer; 0 where the endpoint does not count them."""
        usage = self.usage or _Usage()
        return {"prompt_tokens": usage.prompt_tokens or 0, "generated_tokens": usage.completion_tokens or 0}

    @property
    def likely(self) -> list[tuple[str, float]]:
        """The likeliest first tokens with their log-probabilities. Raises `InvalidInput` where there are none."""
        logprobs = self.choices[0].logprobs
        if not logprobs or not logprobs.content:
            raise InvalidInput("the endpoint gives no logprobs", "take one that does, or task=order")
        return [(each.token, each.logprob) for each in logprobs.content[0].top_logprobs]


def read_reply(reply: Any) -> ChatReply:
    """Return what an endpoint's client gives as a reply. Raises `InvalidInput` for one that is no chat completion."""
    content = reply.model_dump(exclude_none=True, warnings=False) if isinstance(reply, BaseModel) else reply
    try:
        return ChatReply.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if "(" not in str(part))
        problem = f"the reply is no chat completion ({where or 'as a whole'}: {first['msg']}): {content!r:.300}"
        raise InvalidInput(problem, "check openai.url and openai.request") from error
