"""The one error that a user sees: which stage, where, what is wrong there, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_STAGE: ContextVar[str] = ContextVar("stage", default="")


@contextmanager
def in_stage(name: str) -> Iterator[None]:
    """Name the stage that runs in this block, before its errors and its progress lines (`progress.say`).

    An error that comes from elsewhere without a stage, such as another process or thread, gets this one's name.
    """
    token = _STAGE.set(name)
    try:
        yield
    except RradError as error:
        error.stage = error.stage or name
        raise
    finally:
        _STAGE.reset(token)


def stage_name() -> str:
    """Return the name of the stage that runs here; empty outside of one."""
    return _STAGE.get()


class RradError(Exception):
    """A problem in the user's input, config or surroundings, with what the user can do about it.

    `str(error)` reads `stage: place: problem; remedy`, without the stage where none runs.
    """

    def __init__(self, place: str, problem: str, remedy: str) -> None:
        self.stage, self.place, self.problem, self.remedy = stage_name(), place, problem, remedy
        super().__init__(place, problem, remedy)  # Ray pickles exceptions between processes, by these arguments

    def __str__(self) -> str:
        where = f"{self.stage}: {self.place}" if self.stage else self.place
        return f"{where}: {self.problem}; {self.remedy}"

    @classmethod
    def of(cls, place: str, error: Exception, remedy: str) -> RradError:
        """Return the error that says at which place a function failed that does not know its place.

        `remedy` is for errors that bring none of their own, as `InvalidInput` does.
        """
        if isinstance(error, InvalidInput):
            return cls(place, error.problem, error.remedy)
        return cls(place, str(error), remedy)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.place, self.problem, self.remedy), {"stage": self.stage}


class NothingToDo(Exception):
    """A stage has nothing that later ones could go on with, and that is no fault: a pipeline ends well there."""


@contextmanager
def at_place(place: str, remedy: str) -> Iterator[None]:
    """Raise a `ValueError` of this block as the `RradError` that says where it was (see `RradError.of`)."""
    try:
        yield
    except ValueError as error:
        raise RradError.of(place, error, remedy) from error


class InvalidInput(ValueError):
    """A value that a function refuses, with what to do about it; its caller knows the place.

    `str(error)` reads `problem; remedy`.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem, self.remedy = problem, remedy
        super().__init__(problem, remedy)

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}"
