"""The guard around Ray's engine stage: the private parts that it uses are there, and batches pass through it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from rrad_ray.patches.ray_engine_stage import ERROR_COLUMN, guarded


def test_rays_engine_stage_still_has_the_private_parts_that_the_guard_replaces() -> None:
    from ray.llm._internal.batch.stages import base, vllm_engine_stage

    udf = vllm_engine_stage.vLLMEngineStageUDF
    assert inspect.isasyncgenfunction(udf.udf)
    assert inspect.iscoroutinefunction(udf._generate_with_error_handling)
    assert list(inspect.signature(udf._generate_with_error_handling).parameters) == ["self", "row", "batch_uuid"]
    assert isinstance(udf.IDX_IN_BATCH_COLUMN, str)
    assert callable(base.StatefulStage.model_copy)
    assert ERROR_COLUMN in inspect.getsource(base), "error rows no longer pass the engine by"


def test_ray_still_ends_the_actor_of_a_dead_engine_so_that_its_batch_comes_again() -> None:
    from ray.llm._internal.batch.stages import vllm_engine_stage

    source = inspect.getsource(vllm_engine_stage)
    assert "os._exit(1)" in source, "the guard against prompts that kill engines may be needed no more"


class Engine:
    """An engine stage's UDF, as far as the guard sees it."""

    IDX_IN_BATCH_COLUMN = "index"

    async def udf(self, batch: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        for row in batch:
            yield await self._generate_with_error_handling(row, "uuid")

    async def _generate_with_error_handling(self, row: dict[str, Any], batch_uuid: str) -> dict[str, Any]:
        return {"index": row["index"], "text": row["prompt"].upper()}


class Picky:
    """A guard that gives up the first row and asks twice about the others."""

    async def batch(self, rows: Any, answer: Any, give_up: Any) -> AsyncIterator[dict[str, Any]]:
        yield give_up(rows[0], "no")
        async for row in answer(rows[1:]):
            yield row

    async def row(self, row: dict[str, Any], generate: Any) -> dict[str, Any]:
        first = await generate(row)
        return await generate({**row, "prompt": first["text"] + "!"})


def test_a_guard_decides_about_a_batch_and_about_the_calls_of_a_row() -> None:
    stage = SimpleNamespace(fn=Engine, model_copy=lambda update: SimpleNamespace(**update))
    udf = guarded(stage, Picky).fn()

    async def answers() -> list[dict[str, Any]]:
        return [row async for row in udf.udf([{"index": 0, "prompt": "a"}, {"index": 1, "prompt": "b"}])]

    assert asyncio.run(answers()) == [{"index": 0, ERROR_COLUMN: "no"}, {"index": 1, "text": "B!"}]
