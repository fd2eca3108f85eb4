"""Configs of what answers `judge`, besides vLLM: an endpoint, and a simulated teacher."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from rrad_ray.config.base import (
    CHECKED,
    SMOLLM2,
    Count,
    CountOrNone,
    KeyProblem,
    NotNegative,
    Positive,
    Share,
    require,
)

OUR_FIELDS = frozenset({"model", "messages", "n", "stream"})  # of a request


def _http(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http(s)://")
    return url


def _variable(name: str) -> str:
    if name and not re.fullmatch("[A-Z_][A-Z0-9_]{0,63}", name) and name not in os.environ:
        shown = "is no name of an environment variable (it is not shown, for it may be the key itself)"
        raise KeyProblem(f"openai.key_env: {shown}; write the name of the variable that holds the key")
    return name


@dataclass(frozen=True, config=CHECKED)
class OpenAIConfig:
    """Any endpoint that speaks OpenAI's chat completions (`engine: openai`)."""

    url: Annotated[str, AfterValidator(_http)] = "http://127.0.0.1:8000/v1"
    """The base URL. A query behind it, such as `?api-version=...`, goes with each request."""
    key_env: Annotated[str, AfterValidator(_variable)] = "OPENAI_API_KEY"
    """The environment variable that holds the key, where the actors run; empty: no key is sent."""
    concurrency: Count = 32
    """Requests that one actor has under way."""
    retries: CountOrNone = 6
    """Retries of one request after 429, 5xx or a broken connection, with exponential backoff. Where the endpoint asks
    for more than two minutes (`Retry-After`), the query fails at once, and a run that goes on asks it again."""
    timeout_s: Positive = 120.0
    """Seconds that one request may take."""
    request: dict[str, Any] = Field(default_factory=dict)
    """Fields of each request, over `max_tokens` and `temperature: 0`; null drops one, as in {max_tokens: null,
    temperature: null, max_completion_tokens: 2000, reasoning_effort: low}. `extra_body` may hold more of them."""
    system_role: Literal["system", "developer", "user"] = "system"
    """The role of a template's system message; `user`: it heads the user's message, for models without the role."""
    token_budget: CountOrNone = 0
    """Prompt and generated tokens together, over all runs of this output; 0: no limit."""
    prompt_price: NotNegative = 0.0
    """Price of a million prompt tokens, to show what labels cost; 0: none is shown."""
    answer_price: NotNegative = 0.0
    """Price of a million generated tokens."""
    tokenizer: str = SMOLLM2
    """The model whose tokenizer and chat template count tokens for `--estimate`; best the endpoint's own."""

    def __post_init__(self) -> None:
        extra = self.request.get("extra_body")
        for fields in (self.request, extra if isinstance(extra, dict) else {}):
            for name in OUR_FIELDS & fields.keys():
                want = "rrad-ray sets it: the manifest has its model, and one answer is read as a whole; leave it out"
                require(fields[name] is None, f"openai.request.{name}", fields[name], want)


@dataclass(frozen=True, config=CHECKED)
class SimulatedConfig:
    """A teacher made from the collection's own qrels (`engine: simulated`): for research on label recipes only."""

    noise: NotNegative = 0.5
    """Standard deviation of what is added to a document's grade, anew in each answer."""
    length_noise: NotNegative = 0.0
    """The noise of an answer about n documents is multiplied by (n / 10) to this power: long lists are harder."""
    lasting_noise: NotNegative = 0.0
    """Standard deviation of an error that a document keeps in all answers: more calls do not mend it."""
    position_bias: NotNegative = 0.0
    """Grades that the document shown first gains over the one shown last; between them it falls evenly."""
    missing: Share = 0.1
    """Share of the documents that an answer leaves out, the lowest first."""
    malformed: Share = 0.02
    """Share of the answers that say nothing."""
