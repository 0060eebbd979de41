"""The two endpoints that plan."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gplan_jax.inference.engine.requests import PlanRequest
from gplan_jax.serving.http.bodies import read_json, validate
from gplan_jax.serving.http.errors import ApiError
from gplan_jax.serving.http.gate import Gate
from gplan_jax.serving.http.logs import log
from gplan_jax.serving.http.metrics import ServerMetrics
from gplan_jax.serving.http.settings import ServerSettings
from gplan_jax.serving.planning.planning import Planning
from gplan_jax.serving.planning.schemas import (
    Context,
    ExperimentAnswer,
    PlanBody,
    PlanResult,
    PlansBody,
)

Body = TypeVar("Body", PlanBody, PlansBody)


@dataclass(frozen=True)
class PlanEndpoints:
    """`POST /v1/plan` and `POST /v1/plans`."""

    planning: Planning
    gate: Gate
    metrics: ServerMetrics
    settings: ServerSettings

    async def plan(self, request: Request) -> Response:
        """Plans for one context."""
        body = await self._body(request, PlanBody)
        async with watch_hang_up(request) as hung_up:
            result = await self._answer(request, body, body.context, hung_up)
        timings, usage = result.timings_ms.model_dump(), result.usage.model_dump()
        request.state.log.update(timings_ms=timings, usage=usage)
        return JSONResponse(result.body())

    async def plans(self, request: Request) -> Response:
        """Plans for several contexts; each gets an answer or an error of its own, in order.

        No more of them are handed to the engine at once than it has slots.
        """
        body = await self._body(request, PlansBody)
        request.state.log["contexts"] = len(body.contexts)
        room = asyncio.Semaphore(max(1, self.gate.engine.snapshot().slots))

        async def one(
            number: int, context: Context, hung_up: asyncio.Future[None]
        ) -> dict[str, Any]:
            async with room:
                try:
                    suffix = f"-{number}"
                    return (await self._answer(request, body, context, hung_up, suffix)).body()
                except ApiError as error:
                    self.metrics.count_outcome(error.code)
                    return {"error": error.to_dict()}

        async with watch_hang_up(request) as hung_up:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(one(number, context, hung_up))
                        for number, context in enumerate(body.contexts)
                    ]
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from None
        results = [task.result() for task in tasks]
        request.state.log["errors"] = sum("error" in result for result in results)
        return JSONResponse({"results": results})

    async def _body(self, request: Request, kind: type[Body]) -> Body:
        max_bytes = self.settings.max_body_kib * 1024
        timeout_s = self.settings.body_timeout_s
        value, size = await read_json(request, max_bytes=max_bytes, timeout_s=timeout_s)
        request.state.log["body_bytes"] = size
        body = validate(kind, value)
        if body.deadline_ms and body.deadline_ms > self.settings.max_deadline_ms:
            message = f"deadline_ms may be at most {self.settings.max_deadline_ms}."
            raise ApiError(422, "bad_request", message)
        return body

    async def _answer(
        self,
        request: Request,
        body: PlanBody | PlansBody,
        context: Context,
        hung_up: asyncio.Future[None],
        suffix: str = "",
    ) -> PlanResult:
        request_id = request.state.request_id + suffix
        if self.settings.log_contexts:
            request.state.log.setdefault("columns", {})[request_id] = context.model_dump()
        wanted = PlanRequest(
            context.sample(),
            deadline_s=(body.deadline_ms or self.settings.deadline_ms) / 1000,
            temperature=body.temperature,
            seed=body.seed,
        )
        started = request.state.started
        result = await self.planning.answer(
            wanted, request_id=request_id, started=started, hung_up=hung_up
        )
        return result.model_copy(update={"experiment": self._expose(context.id, request_id)})

    def _expose(self, user: str, request_id: str) -> ExperimentAnswer | None:
        """The arm of a user who has just been answered, and the log line that says so."""
        experiment = self.settings.experiment
        arm = experiment.assign(user) if experiment and user else None
        if experiment is None or arm is None:
            return None
        log(
            "exposure",
            request_id=request_id,
            experiment=experiment.name,
            arm=arm,
            user=experiment.pseudonym(user),
        )
        return ExperimentAnswer(name=experiment.name, arm=arm)


@contextlib.asynccontextmanager
async def watch_hang_up(request: Request) -> AsyncIterator[asyncio.Future[None]]:
    """A future that is done once the client has gone; the body must have been read."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(gone())
    try:
        yield task
    finally:
        task.cancel()
