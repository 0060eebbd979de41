"""Plans for contexts: from a body through the engine to its answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import JSONResponse, Response

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, check_plan, latent_valid, parse_plan
from gplan_jax.gsisr.filter import Violation
from gplan_jax.inference.engine import requests
from gplan_jax.serving.http.bodies import ApiError, draining, overloaded, read_json, validate
from gplan_jax.serving.http.settings import ServerSettings
from gplan_jax.serving.http.telemetry import ServerMetrics, log
from gplan_jax.serving.planning import schemas
from gplan_jax.serving.planning.models import LoadedModel, ModelSet

Body = TypeVar("Body", schemas.PlanBody, schemas.PlansBody)
Result = TypeVar("Result")
# The engine keeps deadlines; this much later the server gives up waiting for it to say so.
DEADLINE_GRACE_S = 0.25


class HungUp(Exception):
    """The client has gone before its answer was there."""


def _sound(text: str) -> str:
    """Text that UTF-8 can carry: a model may write the escape of half a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _api_error(error: GplanError, columns: Sequence[str]) -> ApiError:
    """What a client is told of an engine's refusal."""
    match error:
        case requests.Overloaded():
            return overloaded(error.retry_after_s)
        case requests.Draining():
            return draining()
        case requests.NotFinite():
            return ApiError(500, "not_finite", str(error))
        case requests.DeadlineExceeded():
            return ApiError(504, "deadline", "The answer was not ready in time.")
        case requests.BadOption():
            return ApiError(422, "bad_request", str(error), column=error.path)
        case _:
            column = next((name for name in reversed(columns) if name in str(error)), None)
            return ApiError(422, "bad_context", str(error), column=column)


@dataclass(frozen=True)
class PlanEndpoints:
    """`POST /v1/plan` and `POST /v1/plans`."""

    metrics: ServerMetrics
    settings: ServerSettings
    bodies: schemas.Bodies  # of requests, with the columns of the service

    async def plan(self, request: Request, models: ModelSet) -> Response:
        """Plans for one context."""
        body = await self._body(request, self.bodies.plan)
        async with watch_hang_up(request) as hung_up:
            result = await self._answer(request, models, body, body.context, hung_up)
        timings, usage = result.timings_ms.model_dump(), result.usage.model_dump()
        request.state.log.update(timings_ms=timings, usage=usage)
        return JSONResponse(result.body())

    async def plans(self, request: Request, models: ModelSet) -> Response:
        """Plans for several contexts; each gets an answer or an error of its own, in order."""
        body = await self._body(request, self.bodies.plans)
        request.state.log["contexts"] = len(body.contexts)

        async def one(
            number: int, context: schemas.ContextBody, hung_up: asyncio.Future[None]
        ) -> dict[str, Any]:
            try:
                answer = self._answer(request, models, body, context, hung_up, f"-{number}")
                return (await answer).body()
            except ApiError as error:
                self.metrics.count_outcome(error.code)
                return {"error": error.to_dict()}

        async with watch_hang_up(request) as hung_up:
            numbered = enumerate(body.contexts)
            calls = [partial(one, number, context, hung_up) for number, context in numbered]
            results = await together(models.main.engine, calls)
        request.state.log["errors"] = sum("error" in result for result in results)
        return JSONResponse({"results": results})

    async def read(self, request: Request) -> Any:
        """The JSON value of a request's body; see ``read_json``."""
        max_bytes = self.settings.max_body_kib * 1024
        timeout_s = self.settings.body_timeout_s
        value, size = await read_json(request, max_bytes=max_bytes, timeout_s=timeout_s)
        request.state.log["body_bytes"] = size
        return value

    async def _body(self, request: Request, kind: type[Body]) -> Body:
        body = validate(kind, await self.read(request))
        if body.deadline_ms and body.deadline_ms > self.settings.max_deadline_ms:
            message = f"deadline_ms may be at most {self.settings.max_deadline_ms}."
            raise ApiError(422, "bad_request", message)
        return body

    async def decode(
        self,
        request: Request,
        model: LoadedModel,
        wanted: requests.PlanRequest,
        hung_up: asyncio.Future[None],
    ) -> tuple[requests.PlanAnswer, list[Violation], float]:
        """A model's answer, what the rule filter finds in it, and the milliseconds since the
        request came; counted. ApiError says why there is none.
        """
        try:
            answer = await _plan(model.engine, wanted, hung_up)
        except GplanError as error:
            raise _api_error(error, [*model.library.form.columns]) from None
        request.state.pass_ms = answer.pass_ms  # for the trace
        violations = check_plan(answer.text, model.library)
        total_ms = round(1000 * (time.monotonic() - request.state.started), 3)
        self.metrics.observe(answer, passed=not violations, total_ms=total_ms)
        return answer, violations, total_ms

    async def _answer(
        self,
        request: Request,
        models: ModelSet,
        body: schemas.PlanBody | schemas.PlansBody,
        context: schemas.ContextBody,
        hung_up: asyncio.Future[None],
        suffix: str = "",
    ) -> schemas.PlanResult:
        request_id = request.state.request_id + suffix
        if self.settings.log_contexts:
            request.state.log.setdefault("columns", {})[request_id] = context.columns()
        sample = context.sample()
        wanted = requests.PlanRequest(
            sample,
            deadline_s=(body.deadline_ms or self.settings.deadline_ms) / 1000,
            temperature=body.temperature,
            seed=body.seed,
            best=body.best,
        )
        if isinstance(body, schemas.PlanBody):
            accepted, dismissed, shown = map(tuple, (body.accepted, body.dismissed, body.shown))
            wanted = replace(wanted, accepted=accepted, dismissed=dismissed, shown=shown)
        experiment = self.settings.experiment
        arm = experiment.assign(sample.id) if experiment and sample.id else None
        model = models.of(arm)
        request.state.log.setdefault("arm", arm)
        answer, violations, total_ms = await self.decode(request, model, wanted, hung_up)
        # Where an arm's engine has failed, its users are planned for and not exposed to it.
        exposed = None
        if experiment and arm and model is models.by_arm.get(arm, models.main):
            self.metrics.observe_arm(arm, total_ms)
            log(
                "exposure",
                request_id=request_id,
                experiment=experiment.name,
                arm=arm,
                user=experiment.pseudonym(sample.id),
                model=model.name,
                revision=model.revision,
            )
            exposed = schemas.ExperimentAnswer(name=experiment.name, arm=arm)
        text, library, latents = answer.text, model.library, model.latents
        return schemas.PlanResult(
            id=request_id,
            model=model.name,
            plan=_read(text, library),
            text=text,
            latent_valid=latent_valid(text, latents, library) if latents else None,
            passed=not violations,
            violations=[
                schemas.ViolationAnswer(tier=v.tier, code=v.code, message=_sound(v.message))
                for v in violations
            ],
            timings_ms=schemas.Timings(
                queue=round(answer.queue_ms, 3),
                prefill=round(answer.prefill_ms, 3),
                decode=round(answer.decode_ms, 3),
                total=total_ms,
            ),
            usage=schemas.Usage(
                prompt_tokens=answer.prompt_tokens,
                cached_tokens=answer.cached_tokens,
                response_tokens=answer.tokens,
                passes=answer.passes,
                drafted_tokens=answer.drafted,
                accepted_tokens=answer.accepted,
            ),
            experiment=exposed,
            best=_best(answer.found, library) if answer.found else None,
        )


def _read(text: str, library: IntentLibrary) -> list[dict[str, str]]:
    plan = parse_plan(text, library)
    return [{_sound(key): _sound(value) for key, value in i.items()} for i in plan]


def _best(found: requests.FoundPlans, library: IntentLibrary) -> schemas.BestAnswer:
    return schemas.BestAnswer(
        plans=[
            schemas.BestPlanAnswer(
                plan=_read(plan.text, library),
                text=plan.text,
                log_probability=round(plan.log_probability, 6),
            )
            for plan in found.plans
        ],
        exact=found.exact,
        first_intents=[
            schemas.FirstIntentAnswer(intent=intent, probability=round(probability, 6))
            for intent, probability in found.first
        ],
    )


async def together(
    engine: requests.Engine, answers: Sequence[Callable[[], Awaitable[Result]]]
) -> list[Result]:
    """All of several answers in order; the first one's error where one has none."""
    # No more of them are asked for at once than the engine has slots.
    room = asyncio.Semaphore(max(1, engine.snapshot().slots))

    async def one(answer: Callable[[], Awaitable[Result]]) -> Result:
        async with room:
            return await answer()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(answer)) for answer in answers]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def _plan(
    engine: requests.Engine, request: requests.PlanRequest, hung_up: asyncio.Future[None]
) -> requests.PlanAnswer:
    """The engine's answer; its slot is freed where the client hangs up or the time is over."""
    if hung_up.done():
        raise HungUp
    # Submitting renders and encodes the prompt: milliseconds that others need not wait for.
    submitted = await asyncio.to_thread(engine.submit, request)
    future: asyncio.Future[requests.PlanAnswer] = asyncio.wrap_future(submitted)
    timeout = None if request.deadline_s is None else request.deadline_s + DEADLINE_GRACE_S
    try:
        either: set[asyncio.Future[Any]] = {future, hung_up}
        await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            if future.cancelled():
                raise requests.Draining("The engine was closed.")
            return future.result()
        if hung_up.done():
            raise HungUp
        raise requests.DeadlineExceeded("The answer was not ready in time.")
    finally:
        future.cancel()


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
