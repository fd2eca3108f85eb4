"""A ledger of the prompts that kill their engines.

A prompt that kills its engine must not loop: Ray restarts the actor and gives it the same batch again, without end.
Here an engine writes down what it begins; what was begun and never ended was there when an engine died, and is tried
again in ever smaller company, at last alone, and then set aside.

Standard library only: the ledger's process starts at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

AFTER_ONE_DEATH = 8  # prompts that are tried together again after an engine died over them; after another, each alone


class Ledger:
    """An actor that knows which prompts are being answered, and how many engines died during each of them."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.deaths: Counter[str] = Counter()

    def deaths_of(self, keys: list[str]) -> list[int]:
        """Return how many engines died over each prompt; a prompt that comes again while it is open has just killed
        another one."""
        again = self.open.intersection(keys)
        self.deaths.update(again)
        self.open -= again
        return [self.deaths[key] for key in keys]

    def begin(self, keys: list[str]) -> None:
        """Record that an engine begins these prompts."""
        self.open.update(keys)

    def end(self, keys: list[str]) -> None:
        """Record that these prompts are answered."""
        self.open.difference_update(keys)


def groups(deaths: Sequence[int], most: int) -> tuple[list[int], list[list[int]], list[int]]:
    """Return indices of a batch's prompts by how many engines have died over them: none; fewer than `most`, in groups
    that are tried one after another; and those to give up."""
    fresh = [index for index, count in enumerate(deaths) if count == 0]
    once = [index for index, count in enumerate(deaths) if count == 1 < most]
    alone = [[index] for index, count in enumerate(deaths) if 1 < count < most]
    size = AFTER_ONE_DEATH if most > 2 else 1  # the last chance is alone, or neighbours of the culprit go with it
    small = [once[start : start + size] for start in range(0, len(once), size)]
    return fresh, [*small, *alone], [index for index, count in enumerate(deaths) if count >= most]
