"""A guard around the engine stage of `ray.data.llm`: who is asked, and how, is decided by an object of ours.

Uses: the stage's class (`stage.fn`) and its private methods `udf` and `_generate_with_error_handling`, its constant
`IDX_IN_BATCH_COLUMN`, the column `__inference_error__`, and `StatefulStage.model_copy` (Ray 2.60).

Why: when an engine dies, Ray ends the actor and repeats the batch on another one (ray#60145). A prompt that kills its
engine would be repeated without end: there is no hook before a batch, nor one for calls that depend on each other.

Upstream: ray#59522 (resiliency of LLM batch inference). Delete when it bounds the engines that may die over one
prompt; sliding windows need the hook even then.

Breaks: labelling with vLLM stops at its first batch, with an AttributeError; other engines do not pass here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

ERROR_COLUMN = "__inference_error__"  # a row that has a text there passes the engine by
EngineRow = dict[str, Any]
AnswerBatch = Callable[[list[EngineRow]], AsyncIterator[EngineRow]]  # rows of a batch to their answers, as they come
AnswerRow = Callable[[EngineRow], Awaitable[EngineRow]]  # one row to its answer


class Guard(Protocol):
    """An object that decides about a batch before the engine sees it, and about a row's calls."""

    def batch(
        self, rows: list[EngineRow], answer: AnswerBatch, give_up: Callable[[EngineRow, str], EngineRow]
    ) -> AsyncIterator[EngineRow]:
        """Yield the answers of a batch; `give_up(row, error)` makes the answer of a row that is not asked."""
        ...

    async def row(self, row: EngineRow, generate: AnswerRow) -> EngineRow:
        """Return the answer of one row, by as many calls of `generate` as it needs."""
        ...


def guarded(stage: Any, make_guard: Callable[[], Guard]) -> Any:
    """Return a processor's engine stage that passes through a guard, made once in each engine's process."""
    base = stage.fn

    class Guarded(base):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.guard = make_guard()

        async def udf(self, batch: list[EngineRow]) -> AsyncIterator[EngineRow]:
            async for answer in self.guard.batch(batch, super().udf, self._given_up):
                yield answer

        def _given_up(self, row: EngineRow, error: str) -> EngineRow:
            return {self.IDX_IN_BATCH_COLUMN: row[self.IDX_IN_BATCH_COLUMN], ERROR_COLUMN: error}

        async def _generate_with_error_handling(self, row: EngineRow, batch_uuid: Any) -> EngineRow:
            generate = super()._generate_with_error_handling

            async def call(row: EngineRow) -> EngineRow:
                return dict(await generate(row, batch_uuid))

            return await self.guard.row(row, call)

    return stage.model_copy(update={"fn": Guarded})  # an assignment would work out its resources again, wrongly
