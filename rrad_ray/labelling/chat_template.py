"""A model's chat template: the messages of a prompt to token ids, with and without a system role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rrad_ray.control_tokens import ControlTokens
from rrad_ray.errors import InvalidInput

Messages = list[dict[str, str]]


def with_system_as(role: str, messages: Messages) -> Messages:
    """Return messages whose instruction has this role in place of `system`; `user`: it heads the user's own."""
    first, *rest = messages
    if first["role"] != "system":
        return messages
    if role != "user" or rest[0]["role"] != "user":
        return [{**first, "role": role}, *rest]
    return [{**rest[0], "content": f"{first['content']}\n\n{rest[0]['content']}"}, *rest[1:]]


class ChatTemplate:
    """The chat template of a tokenizer, which renders messages up to where the model is to answer."""

    def __init__(self, tokenizer: Any, options: Mapping[str, Any]) -> None:
        """`options`: the template's own variables, such as `enable_thinking`. Raises `ValueError` for no template."""
        if not tokenizer.chat_template:
            remedy = "name an instruct model, add chat_template.jinja to its folder, or take task=likelihood"
            raise InvalidInput("the model has no chat template: it follows no instructions", remedy)
        self.tokenizer, self.options = tokenizer, dict(options)
        self.control = ControlTokens(tokenizer)
        probe = [{"role": "system", "content": "instruction"}, {"role": "user", "content": "question"}]
        try:
            self.system_role = "system" if "instruction" in self._text(probe) else "user"
        except Exception:  # Gemma's, for one, raises an error of its own for the role
            self.system_role = "user"

    def _text(self, messages: Messages) -> str:
        options = {"tokenize": False, "add_generation_prompt": True, **self.options}
        return str(self.tokenizer.apply_chat_template(messages, **options))

    def ids(self, messages: Messages) -> list[int]:
        """Return the token ids of a chat. Raises `ValueError` for messages that the template refuses."""
        try:
            text = self._text(with_system_as(self.system_role, messages))
        except Exception as error:  # the template's own, of any kind
            roles = ", ".join(message["role"] for message in messages)
            problem = f"the model's chat template refuses messages of the roles {roles}: {error}"
            raise InvalidInput(problem, "take another prompt template, or mend chat_template_kwargs") from error
        return self.control.ids([text])[0]
