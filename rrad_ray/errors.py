"""The one error that a user sees: which stage, where, what was found there, and what to do about it."""

from __future__ import annotations


class RradError(Exception):
    """A problem in the user's input, config or surroundings, told so that the user can mend it.

    `str(error)` reads `stage: place: found; remedy`.
    """

    def __init__(self, stage: str, place: str, found: str, remedy: str) -> None:
        self.stage, self.place, self.found, self.remedy = stage, place, found, remedy
        super().__init__(f"{stage}: {place}: {found}; {remedy}")

    @classmethod
    def of(cls, stage: str, place: str, error: Exception, remedy: str) -> RradError:
        """What a function that knows neither stage nor place has found, from its `ValueError`: `found; remedy`, or
        `found` alone, to which the remedy given here belongs."""
        found, _, own = str(error).partition("; ")
        return cls(stage, place, found, own or remedy)

    def __reduce__(self) -> tuple[type[RradError], tuple[str, str, str, str]]:
        # Ray pickles exceptions between processes; Exception's own way would call __init__ with one argument.
        return type(self), (self.stage, self.place, self.found, self.remedy)
