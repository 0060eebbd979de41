"""The HTTP app: plans for contexts, health, metrics and the page.

The two endpoints that plan go from a body through the engine to its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, Response

import gplan_jax
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import COLUMNS, IntentLibrary, Sample, check_plan, latent_valid, parse_plan
from gplan_jax.inference.engine.requests import (
    BadOption,
    DeadlineExceeded,
    Draining,
    Engine,
    FoundPlans,
    NotFinite,
    Overloaded,
    PlanAnswer,
    PlanRequest,
)
from gplan_jax.reasoning import LatentVocabulary
from gplan_jax.serving.http.bodies import read_json, validate
from gplan_jax.serving.http.errors import ApiError, draining, overloaded
from gplan_jax.serving.http.middleware import HUNG_UP, SHARED_PAGE_FILES, Gate, RequestShell
from gplan_jax.serving.http.settings import ServerSettings
from gplan_jax.serving.http.telemetry import ServerMetrics, log
from gplan_jax.serving.planning.schemas import (
    ERRORS,
    PLAN_ERRORS,
    BestAnswer,
    BestPlanAnswer,
    ContextBody,
    Example,
    ExamplesAnswer,
    ExperimentAnswer,
    FirstIntentAnswer,
    ModelAnswer,
    PlanBody,
    PlanResult,
    PlansBody,
    PlansResult,
    StatusAnswer,
    Timings,
    ToolAnswer,
    Usage,
    ViolationAnswer,
    describe,
)
from gplan_jax.synthesis.world.simulation import simulate_rows

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

Body = TypeVar("Body", PlanBody, PlansBody)
# The engine keeps deadlines; this much later the server gives up waiting for it to say so.
DEADLINE_GRACE_S = 0.25


class HungUp(Exception):
    """The client has gone before its answer was there."""


def _sound(text: str) -> str:
    """Text that UTF-8 can carry: a model may write the escape of half a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _api_error(error: GplanError) -> ApiError:
    """What a client is told of an engine's refusal."""
    match error:
        case Overloaded():
            return overloaded(error.retry_after_s)
        case Draining():
            return draining()
        case NotFinite():
            return ApiError(500, "not_finite", str(error))
        case DeadlineExceeded():
            return ApiError(504, "deadline", "The answer was not ready in time.")
        case BadOption():
            return ApiError(422, "bad_request", str(error), column=error.path)
        case _:
            column = next((name for name in reversed(COLUMNS) if name in str(error)), None)
            return ApiError(422, "bad_context", str(error), column=column)


@dataclass(frozen=True)
class PlanEndpoints:
    """`POST /v1/plan` and `POST /v1/plans`."""

    engine: Engine
    library: IntentLibrary
    latents: LatentVocabulary | None  # None where the model writes no latent prefix.
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
        """Plans for several contexts; each gets an answer or an error of its own, in order."""
        body = await self._body(request, PlansBody)
        request.state.log["contexts"] = len(body.contexts)
        # No more of them go to the engine at once than it has slots.
        room = asyncio.Semaphore(max(1, self.engine.snapshot().slots))

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
        feedback = {}
        if isinstance(body, PlanBody):
            names = ("accepted", "dismissed", "shown")
            feedback = {name: tuple(getattr(body, name)) for name in names}
        wanted = PlanRequest(
            context.sample(),
            deadline_s=(body.deadline_ms or self.settings.deadline_ms) / 1000,
            temperature=body.temperature,
            seed=body.seed,
            best=body.best,
            **feedback,
        )
        try:
            answer = await self._plan(wanted, hung_up)
        except GplanError as error:
            raise _api_error(error) from None
        request.state.pass_ms = answer.pass_ms  # for the trace
        text = answer.text
        violations = check_plan(text, self.library)
        valid = latent_valid(text, self.latents, self.library) if self.latents else None
        total_ms = round(1000 * (time.monotonic() - request.state.started), 3)
        self.metrics.observe(answer, passed=not violations, total_ms=total_ms)
        return PlanResult(
            id=request_id,
            model=self.settings.model,
            plan=self._read(text),
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
                total=total_ms,
            ),
            usage=Usage(
                prompt_tokens=answer.prompt_tokens,
                cached_tokens=answer.cached_tokens,
                response_tokens=answer.tokens,
                passes=answer.passes,
                drafted_tokens=answer.drafted,
                accepted_tokens=answer.accepted,
            ),
            experiment=self._expose(context.id, request_id),
            best=self._best(answer.found) if answer.found else None,
        )

    def _read(self, text: str) -> list[dict[str, str]]:
        plan = parse_plan(text, self.library)
        return [{_sound(key): _sound(value) for key, value in i.items()} for i in plan]

    def _best(self, found: FoundPlans) -> BestAnswer:
        return BestAnswer(
            plans=[
                BestPlanAnswer(
                    plan=self._read(plan.text),
                    text=plan.text,
                    log_probability=round(plan.log_probability, 6),
                )
                for plan in found.plans
            ],
            exact=found.exact,
            first_intents=[
                FirstIntentAnswer(intent=intent, probability=round(probability, 6))
                for intent, probability in found.first
            ],
        )

    async def _plan(self, request: PlanRequest, hung_up: asyncio.Future[None]) -> PlanAnswer:
        """The engine's answer; its slot is freed where the client hangs up or the time is over."""
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

    def _expose(self, user: str, request_id: str) -> ExperimentAnswer | None:
        """The user's arm, None without one; logs the exposure."""
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


PAGE = Path(__file__).parent / "page"
PAGE_FILES = {
    "/": PAGE / "index.html",
    "/docs": PAGE / "docs.html",
    "/page/app.js": PAGE / "app.js",
    "/page/docs.js": PAGE / "docs.js",
    **{f"/page/{path.name}": path for path in SHARED_PAGE_FILES},
}
EXAMPLE_SEED, EXAMPLE_ROWS = 7, 200


def create_app(
    engine: Engine,
    library: IntentLibrary,
    latents: LatentVocabulary | None,
    *,
    settings: ServerSettings,
    tracer: Tracer | None = None,
) -> FastAPI:
    """The app around an engine; ``app.state.gate`` decides which requests are let in.

    ``latents`` is the latent vocabulary of its responses, None for a model that writes none.
    ``tracer`` takes the spans of requests.
    """
    metrics, gate = ServerMetrics(engine.snapshot), Gate(engine)
    endpoints = PlanEndpoints(engine, library, latents, metrics, settings)
    app = FastAPI(
        title="GPlan",
        summary="Plans for the contexts of users.",
        version=gplan_jax.__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.gate, app.state.metrics = gate, metrics
    for path, endpoint, answer in (
        ("/v1/plan", endpoints.plan, PlanResult),
        ("/v1/plans", endpoints.plans, PlansResult),
    ):
        app.add_api_route(
            path, endpoint, methods=["POST"], response_model=answer, responses=PLAN_ERRORS
        )
    _add_descriptions(app, library, settings)
    _add_probes(app, gate, metrics)
    _add_error_handlers(app, metrics)

    def page_file(path: Path) -> Any:
        async def serve() -> FileResponse:
            return FileResponse(path, headers={"Cache-Control": "no-cache"})

        return serve

    for route, file in PAGE_FILES.items():
        app.add_api_route(route, page_file(file), methods=["GET", "HEAD"], include_in_schema=False)
    describe(app, settings, {"/v1/plan": PlanBody, "/v1/plans": PlansBody})
    app.add_middleware(RequestShell, settings=settings, metrics=metrics, gate=gate, tracer=tracer)
    return app


def _add_descriptions(app: FastAPI, library: IntentLibrary, settings: ServerSettings) -> None:
    """For the page: the model, its tools, and contexts to start from."""
    tools = {
        name: ToolAnswer(meaning=tool.meaning, parameters=[*tool.parameters, *tool.optional])
        for name, tool in library.tools.items()
    }
    model_answer = ModelAnswer(
        model=settings.model,
        mode=settings.mode,
        library=library.name,
        tool_key=library.tool_key,
        tools=tools,
        deadline_ms=settings.deadline_ms,
    )
    examples_answer = ExamplesAnswer(examples=[*example_contexts(settings.examples)])

    @app.get("/v1/model", responses=ERRORS)
    async def model() -> ModelAnswer:
        """What the server runs, and what its tools mean."""
        return model_answer

    @app.get("/v1/examples", responses=ERRORS)
    async def examples() -> ExamplesAnswer:
        """Simulated contexts to try."""
        return examples_answer


def _add_probes(app: FastAPI, gate: Gate, metrics: ServerMetrics) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", responses={503: PLAN_ERRORS[503]}, response_model_exclude_none=True)
    async def healthz() -> StatusAnswer:
        """Whether the process is well: 503 once the engine has failed, and only a restart helps."""
        gate.check_alive()
        return StatusAnswer(status="ok")

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", responses={503: PLAN_ERRORS[503]}, response_model_exclude_none=True)
    async def readyz() -> StatusAnswer:
        """Whether plan requests are taken: 503 while the model loads and once the server stops."""
        gate.check()
        works = gate.engine.snapshot().replicas
        return StatusAnswer(
            status="ready", replicas=f"{sum(works)} of {len(works)}" if works else None
        )

    @app.head("/metrics", include_in_schema=False)
    @app.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _add_error_handlers(app: FastAPI, metrics: ServerMetrics) -> None:
    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        if request.url.path.startswith("/v1/"):
            metrics.count_outcome(error.code)
        request.state.log["code"] = error.code
        return error.response()

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        content = {"error": {"code": code, "message": f"{error.detail}."}}
        return JSONResponse(content, error.status_code, headers=error.headers)

    @app.exception_handler(HungUp)
    @app.exception_handler(ClientDisconnect)
    async def hung_up(request: Request, error: Exception) -> Response:
        metrics.count_outcome("cancelled")
        return Response(status_code=HUNG_UP)


@lru_cache
def example_contexts(count: int) -> tuple[Example, ...]:
    """``count`` simulated contexts, as different as their orders and current places are."""
    samples = list(simulate_rows(EXAMPLE_ROWS, EXAMPLE_SEED)) if count else []
    kinds: dict[tuple[str, str], Sample] = {}
    for sample in samples:
        kinds.setdefault((sample.trigger_1, sample.current_tag), sample)
    # One context of each order type first, then a second one of each, and so on.
    seen: Counter[str] = Counter()
    rounds: list[tuple[int, Sample]] = []
    for sample in kinds.values():
        rounds.append((seen[sample.trigger_1], sample))
        seen[sample.trigger_1] += 1
    chosen = [sample for _, sample in sorted(rounds, key=lambda entry: entry[0])[:count]]
    return tuple(
        Example(
            name=f"{sample.trigger_1} · {sample.current_tag} · {sample.currenttime[5:16]}",
            context=ContextBody(**{k: v for k, v in sample.to_dict().items() if k != "raw_labels"}),
        )
        for sample in chosen
    )
