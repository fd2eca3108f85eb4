"""Dev queries that a table lists among others: they are asked first, so that the labeller is checked before the rest
is paid for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rrad_ray.rows import Row

PromptKey = tuple[int, int]  # row in the shard, slot

Look = Callable[[Mapping[str, Sequence[Row]]], None]


@dataclass
class DevFirst:
    """The prompts about dev queries that are asked before all others, and the check that follows their answers.

    `prompts`: by part, every slot of each dev query's row. `look`: takes the labelled dev queries of the parts that
    are not written yet, and raises `RradError` if the labeller is not worth its labels.
    """

    prompts: Mapping[str, Sequence[PromptKey]] = field(default_factory=dict)
    look: Look = lambda rows: None
    awaited: set[tuple[str, PromptKey]] = field(init=False)

    def __post_init__(self) -> None:
        """Await every answer."""
        self.awaited = {(part, prompt) for part, prompts in self.prompts.items() for prompt in prompts}

    def numbers(self, part: str) -> list[int]:
        """Return the rows of a shard that are asked first, in their order."""
        return sorted({row for row, _ in self.prompts.get(part, ())})

    def take(self, part: str, prompt: PromptKey) -> bool:
        """Note an answer; return true where it is the last of those that are awaited."""
        if (part, prompt) not in self.awaited:
            return False
        self.awaited.discard((part, prompt))
        return not self.awaited
