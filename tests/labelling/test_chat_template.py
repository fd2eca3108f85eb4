"""Models' chat templates as they are: without a system role, with variables, strict about turns, or none at all."""

from __future__ import annotations

from typing import Any

import pytest

from rrad_ray.config import PromptConfig
from rrad_ray.errors import InvalidInput
from rrad_ray.labelling import planner
from rrad_ray.labelling.chat_template import ChatTemplate, with_system_as
from rrad_ray.tables import checkpoints
from tests import tiny

TURNS = "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}{% endfor %}"
SYSTEM, USER, MODEL = ({"role": role, "content": f"w1 {role}"} for role in ("system", "user", "assistant"))


def rendered(template: str, messages: list[dict[str, str]], **options: Any) -> str:
    """The chat as the template renders it: a tokenizer that says what it is given."""
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    chat, texts = ChatTemplate(tokenizer, options), list[str]()
    chat.control.ids = lambda given: texts.extend(given) or [[0]]  # type: ignore[method-assign, func-returns-value]
    chat.ids(messages)
    return texts[0]


@pytest.mark.parametrize(
    "refuses",
    [
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TURNS,
        TURNS.replace("{{", "{% if m.role != 'system' %}{{").replace("{% endfor", "{% endif %}{% endfor"),
    ],
)
def test_a_template_that_refuses_or_drops_the_system_role_gets_the_instruction_in_the_users_turn(
    refuses: str,
) -> None:
    """Fault 12: Gemma's raises an error for the role, and some leave the message out without a word."""
    assert rendered(TURNS, [SYSTEM, USER]) == "<system>w1 system<user>w1 user"
    assert rendered(refuses, [SYSTEM, USER, MODEL]) == "<user>w1 system\n\nw1 user<assistant>w1 assistant"
    assert rendered(refuses, [USER]) == "<user>w1 user"


def test_an_instruction_gets_another_role_or_heads_the_users_message() -> None:
    assert with_system_as("developer", [SYSTEM, USER]) == [{**SYSTEM, "role": "developer"}, USER]
    assert with_system_as("user", [SYSTEM, MODEL, USER]) == [{**SYSTEM, "role": "user"}, MODEL, USER]
    assert with_system_as("user", [USER]) == [USER]


def test_variables_reach_the_template() -> None:
    template = TURNS + "{% if not thinks %}</think>{% endif %}"
    assert rendered(template, [USER], thinks=False) == "<user>w1 user</think>"
    assert rendered(template, [USER], thinks=True) == "<user>w1 user"


def test_a_model_without_a_template_or_with_one_that_refuses_the_messages_is_an_error() -> None:
    with pytest.raises(InvalidInput, match=r"no chat template.*chat_template.jinja"):
        ChatTemplate(tiny.tokenizer(), {})
    with pytest.raises(InvalidInput, match="refuses messages of the roles user, assistant: turns must alternate"):
        rendered(
            "{% if messages|length > 1 %}{{ raise_exception('turns must alternate') }}{% endif %}x", [USER, MODEL]
        )


def test_a_budget_for_thinking_comes_on_top_of_the_answers_tokens() -> None:
    cfg = PromptConfig(task="order", thinking_tokens=200, max_tokens=50, engine_kwargs={"max_model_len": 400})
    item = {"query_id": "q", "query": "add", "doc_ids": ["a", "b"], "texts": ["one " * 200, "two"]}
    [prompt] = planner.Planner(cfg, checkpoints.resolve(checkpoints.BUNDLED[1]))(item)
    assert prompt["sampling_params"] == {"max_tokens": 250, "temperature": 0.0, "thinking_token_budget": 200}
    assert len(prompt["token_ids"]) <= 150
    with pytest.raises(ValueError, match=r"thinking_tokens=200.*openai.request"):
        PromptConfig(task="order", engine="openai", thinking_tokens=200)
