"""The token budget of a paid endpoint: once it is spent no request goes out, and what is answered by then is kept."""

from __future__ import annotations

import time
from typing import NamedTuple

import ray

from rrad_ray import tables
from rrad_ray.errors import RradError
from rrad_ray.runtime import cluster
from rrad_ray.tables.status import read_progress

SPENT = "tokens_spent"  # in the record of progress

UNASKED = "the token budget is spent"  # an answer's error: no request went out for it, or not all

WAIT_S = 60.0  # for answers that went away with a node

GOES_ON = "run the same command again: what is answered is kept"


class BudgetState(NamedTuple):
    """The requests under way, the prompts answered, whether the endpoint counts no tokens, and those spent."""

    under_way: int
    rows: int
    uncounted: bool
    spent: int


class TokenBudget:
    """A budget and what of it is spent, in an actor that all who ask share."""

    def __init__(self, budget: int, spent: int) -> None:
        self.budget, self.spent, self.open, self.rows, self.uncounted = budget, spent, 0, 0, False

    def admit(self) -> bool:
        """Return whether another request may go out."""
        admitted = self.spent < self.budget and not self.uncounted
        self.open += admitted
        return admitted

    def close(self) -> None:
        """Admit no request any more."""
        self.budget = 0

    def spend(self, tokens: int, failed: bool) -> None:
        """Count the tokens of a request that went out. An answer without any is the last one: what the others take
        could not be known either."""
        self.open -= 1
        self.spent += tokens
        self.uncounted |= not tokens and not failed

    def answered(self) -> None:
        """Count a prompt with all its requests."""
        self.rows += 1

    def state(self) -> BudgetState:
        """Return what has come of the budget so far."""
        return BudgetState(self.open, self.rows, self.uncounted, self.spent)


class Spending:
    """The driver's side of a budget, of which earlier runs have `spent` some tokens."""

    def __init__(self, budget: int, spent: int) -> None:
        self.budget = budget
        self.shared = cluster.shared_actor(TokenBudget, budget, spent)
        self.taken, self.unasked, self.last = 0, False, time.monotonic()

    def facts(self) -> dict[str, int]:
        """Return what the run's record of progress says, for a run that goes on: answers that were set aside have
        cost tokens too, and stand nowhere else."""
        return {SPENT: self._state().spent}

    def close(self) -> None:
        """Let no request go out any more, and wait for those under way, so that all is counted."""
        ray.get(self.shared.actor.close.remote())
        until = time.monotonic() + WAIT_S
        while self._state().under_way and time.monotonic() < until:
            time.sleep(0.1)

    def take(self, error: str) -> bool:
        """Count an answer as it comes; return false for that of a prompt that was not asked about, or not whole."""
        if error.endswith(UNASKED):
            self.unasked = True
            return False
        self.taken, self.last = self.taken + 1, time.monotonic()
        return True

    def end(self, over: bool) -> RradError | None:
        """Return why the run ends, as soon as every answer has come that was asked for; None before. `over`: all
        prompts have come back."""
        if not self.unasked:
            return None
        state = self._state()
        if not over and (state.under_way or (self.taken < state.rows and time.monotonic() - self.last < WAIT_S)):
            return None
        if state.uncounted:
            problem = f"the endpoint does not say how many tokens it takes, so that {self.budget:,} cannot be kept"
            return RradError("openai.token_budget", problem, f"set it to 0 and {GOES_ON}")
        problem = f"the budget of {self.budget:,} tokens is spent ({state.spent:,} used)"
        return RradError("openai.token_budget", problem, f"raise it and {GOES_ON}")

    def _state(self) -> BudgetState:
        return ray.get(self.shared.actor.state.remote())


def spent_before(out: tables.Output) -> dict[str, int]:
    """Return the tokens that earlier runs have spent of their budget, as the record of progress says; empty if it
    says nothing."""
    facts = read_progress(tables.join(out.uri, out.progress)) or {}
    return {key: value for key, value in facts.items() if key == SPENT}
