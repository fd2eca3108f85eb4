"""The end of a run in which every request fails, before the rest of it is tried."""

from __future__ import annotations

import re
from collections import Counter

from rrad_ray import prompts
from rrad_ray.errors import RradError
from rrad_ray.labelling.chat_replies import NO_TEXT, ORDER_CUT
from rrad_ray.progress import say

ALIKE = 16  # failures of one kind, before any answer, that end a run

# Errors of an endpoint that may be over when the run goes on: the first ones are no query's own, and the last ones
# end with other fields of `openai.request`.
ASKED_AGAIN = tuple(
    f"engine error: {name}"
    for name in (
        *("AuthenticationError", "PermissionDeniedError", "RateLimitError", "InternalServerError"),
        *("APIConnectionError", "APITimeoutError", NO_TEXT, ORDER_CUT),
    )
)


class FirstErrors:
    """The engine's errors until it answers for the first time: the first one is shown, and `ALIKE` that are alike end
    the run, for the rest would fail as they did."""

    def __init__(self) -> None:
        self.answered = False
        self.kinds: Counter[str] = Counter()

    def add(self, error: str) -> None:
        """Count an answer's error (empty: none). Raises `RradError` for the last of `ALIKE` that are alike."""
        if error.startswith(prompts.TOO_LONG):
            return
        self.answered |= not error
        if not error or self.answered:
            return
        if not self.kinds:
            say(f"the first error: {error}")
        kind = re.sub(r"0x\w+|[\da-f]{8}-[\w-]+|\d+", "#", error)  # requests have numbers of their own
        self.kinds[kind] += 1
        if self.kinds[kind] == ALIKE:
            remedy = "mend model, engine_kwargs or openai (of openai.request, null drops a field) and run again"
            raise RradError("engine", f"no answer, and {ALIKE} times the same error: {error}", remedy)
