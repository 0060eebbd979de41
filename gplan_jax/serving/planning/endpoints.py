"""The two endpoints that plan: from a body through the engine to its answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import COLUMNS, IntentLibrary, check_plan, latent_valid, parse_plan
from gplan_jax.inference.engine.requests import (
    DeadlineExceeded,
    Draining,
    Engine,
    Overloaded,
    PlanAnswer,
    PlanRequest,
)
from gplan_jax.reasoning import LatentVocabulary
from gplan_jax.serving.http.bodies import read_json, validate
from gplan_jax.serving.http.errors import ApiError, draining, overloaded
from gplan_jax.serving.http.middleware import Gate
from gplan_jax.serving.http.settings import ServerSettings
from gplan_jax.serving.http.telemetry import ServerMetrics, log
from gplan_jax.serving.planning.schemas import (
    ContextBody,
    ExperimentAnswer,
    PlanBody,
    PlanResult,
    PlansBody,
    Timings,
    Usage,
    ViolationAnswer,
)

Body = TypeVar("Body", PlanBody, PlansBody)
# The engine keeps deadlines; this much later the server gives up waiting for it to say so.
DEADLINE_GRACE_S = 0.25


class HungUp(Exception):
    """The client has gone before its answer was there."""


@dataclass(frozen=True)
class Planning:
    """What turns a request into an answer's body.

    Attributes:
        latents: the latent vocabulary of responses; None where the model writes no latent prefix.
        model: the name that answers carry.
    """

    engine: Engine
    library: IntentLibrary
    latents: LatentVocabulary | None
    metrics: ServerMetrics
    model: str

    async def answer(
        self,
        request: PlanRequest,
        *,
        request_id: str,
        started: float,
        hung_up: asyncio.Future[None],
    ) -> PlanResult:
        """Plans for one request.

        Args:
            request_id: the answer's id.
            started: when the request arrived, by ``time.monotonic``.
            hung_up: done once the client has gone; the engine's slot is freed then.

        Raises:
            ApiError: there is no plan; the error says why.
            HungUp: the client has gone.
        """
        try:
            answer = await self._plan(request, hung_up)
        except GplanError as error:
            raise as_api_error(error) from None
        result = self._result(answer, request_id, started)
        self.metrics.observe(answer, passed=result.passed, total_ms=result.timings_ms.total)
        return result

    async def _plan(self, request: PlanRequest, hung_up: asyncio.Future[None]) -> PlanAnswer:
        if hung_up.done():
            raise HungUp
        # Submitting renders and encodes the prompt: milliseconds that others need not wait for.
        submitted = await asyncio.to_thread(self.engine.submit, request)
        future: asyncio.Future[PlanAnswer] = asyncio.wrap_future(submitted)
        timeout = None if request.deadline_s is None else request.deadline_s + DEADLINE_GRACE_S
        try:
            either: set[asyncio.Future[Any]] = {future, hung_up}
            await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if future.done():
                if future.cancelled():
                    raise Draining("The engine was closed.")
                return future.result()
            if hung_up.done():
                raise HungUp
            raise DeadlineExceeded("The answer was not ready in time.")
        finally:
            future.cancel()

    def _result(self, answer: PlanAnswer, request_id: str, started: float) -> PlanResult:
        text = answer.text
        violations = check_plan(text, self.library)
        valid = latent_valid(text, self.latents, self.library) if self.latents else None
        plan = parse_plan(text, self.library)
        return PlanResult(
            id=request_id,
            model=self.model,
            plan=[{_sound(key): _sound(value) for key, value in i.items()} for i in plan],
            text=text,
            latent_valid=valid,
            passed=not violations,
            violations=[
                ViolationAnswer(tier=v.tier, code=v.code, message=_sound(v.message))
                for v in violations
            ],
            timings_ms=Timings(
                queue=round(answer.queue_ms, 3),
                prefill=round(answer.prefill_ms, 3),
                decode=round(answer.decode_ms, 3),
                total=round(1000 * (time.monotonic() - started), 3),
            ),
            usage=Usage(
                prompt_tokens=answer.prompt_tokens,
                cached_tokens=answer.cached_tokens,
                response_tokens=answer.tokens,
                passes=answer.passes,
                drafted_tokens=answer.drafted,
                accepted_tokens=answer.accepted,
            ),
        )


def _sound(text: str) -> str:
    """Text that UTF-8 can carry: a model may write the escape of half a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8")


def as_api_error(error: GplanError) -> ApiError:
    """What a client is told of an engine's refusal."""
    match error:
        case Overloaded():
            return overloaded(error.retry_after_s)
        case Draining():
            return draining()
        case DeadlineExceeded():
            return ApiError(504, "deadline", "The answer was not ready in time.")
        case _:
            column = next((name for name in reversed(COLUMNS) if name in str(error)), None)
            return ApiError(422, "bad_context", str(error), column=column)


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
            number: int, context: ContextBody, hung_up: asyncio.Future[None]
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
        context: ContextBody,
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
