"""Control tokens in texts from outside stay text: no document ends the user's turn or writes the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

# Where a text is cut in two before it is tokenized. It is no character, so a text loses nothing without it.
TEXT_CUT = "\uffff"

# Control tokens of the chat templates in use, for endpoints whose tokenizer is not at hand.
_KNOWN = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<｜[^<>｜]{1,40}｜>|</?(?:s|bos|eos|pad|think|start_of_turn|end_of_turn)>|<</?SYS>>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS|THINK)\]"
)


def spaced(text: str) -> str:
    """Return a text whose control tokens, those of all chat templates in use, have a space behind their first
    character: `<|im_end|>` becomes `< |im_end|>`, which no tokenizer takes for one."""
    return _KNOWN.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


class ControlTokens:
    """The control tokens of a tokenizer: the special ones, and added ones that its chat template writes.

    `guarded` cuts each that stands in a text from outside, and `ids` tokenizes the pieces apart: the text is the same
    to the model, and no piece of it is a control token. Those of the prompt around it still are.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        template = str(tokenizer.chat_template or "")
        added = [(str(token), token.special) for token in tokenizer.added_tokens_decoder.values()]
        names = {name for name, special in added if special or name in template} | set(tokenizer.all_special_tokens)
        longest_first = sorted((name for name in names if len(name.strip()) > 1), key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def guarded(self, text: str) -> str:
        """Return a text from outside in which every control token is cut behind its first character."""
        text = text.replace(TEXT_CUT, "")
        while self.pattern.search(text):  # what is left of one may hold another
            text = self.pattern.sub(lambda match: f"{match[0][0]}{TEXT_CUT}{match[0][1:]}", text)
        return text

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts with cuts, each without special tokens around it."""
        pieces = [text.split(TEXT_CUT) for text in texts]
        flat = iter(self.tokenizer(list(chain.from_iterable(pieces)), add_special_tokens=False)["input_ids"])
        return [list(chain.from_iterable(islice(flat, len(some)))) for some in pieces]
