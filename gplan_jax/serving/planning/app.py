"""The HTTP app: its routes, health, metrics and the page."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

import gplan_jax
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.paths import local_path
from gplan_jax.gsisr import IntentLibrary, Sample, Service
from gplan_jax.gsisr.service import WORLD
from gplan_jax.inference.engine.requests import BadOption
from gplan_jax.serving.http.bodies import SHARED_PAGE_FILES, ApiError, serve_files, validate
from gplan_jax.serving.http.middleware import HUNG_UP, Gate, RequestShell
from gplan_jax.serving.http.settings import ServerSettings
from gplan_jax.serving.http.telemetry import ServerMetrics
from gplan_jax.serving.planning import schemas
from gplan_jax.serving.planning.endpoints import HungUp, PlanEndpoints
from gplan_jax.serving.planning.models import MAIN, LoadedModel, Models
from gplan_jax.serving.planning.openai_routes import (
    OpenAiEndpoints,
    describe_model,
    model_called,
)
from gplan_jax.synthesis.world.data_world import world_contexts

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {
    "/": PAGE / "index.html",
    "/docs": PAGE / "docs.html",
    "/page/app.js": PAGE / "app.js",
    "/page/portrait.js": PAGE / "portrait.js",
    "/page/docs.js": PAGE / "docs.js",
    **{f"/page/{path.name}": path for path in SHARED_PAGE_FILES},
}
EXAMPLE_SEED, EXAMPLE_ROWS = 7, 200


def create_app(
    models: Models,
    *,
    settings: ServerSettings,
    tracer: Tracer | None = None,
) -> FastAPI:
    """The app around models; ``app.state.gate`` decides which requests are let in.

    ``tracer`` takes the spans of requests.
    """
    metrics, gate = ServerMetrics(models.snapshot), Gate(models)
    # All models have the same columns, see ``Models``.
    library = models.current.main.library
    bodies = schemas.bodies_of(library.form)
    planning = PlanEndpoints(metrics, settings, bodies)
    openai = OpenAiEndpoints(planning)

    def served() -> list[LoadedModel]:
        return [*models.current.by_arm.values()]

    metrics.tell_models(lambda: ((model.name, model.revision) for model in served()))
    app = FastAPI(
        title="GPlan",
        summary="Plans for the contexts of users.",
        version=gplan_jax.__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.gate, app.state.metrics = gate, metrics
    app.post("/v1/plan", response_model=schemas.PlanResult, responses=schemas.PLAN_ERRORS)(
        models.handler(planning.plan)
    )
    app.post("/v1/plans", response_model=schemas.PlansResult, responses=schemas.PLAN_ERRORS)(
        models.handler(planning.plans)
    )
    hidden = partial(app.post, include_in_schema=False)  # OpenAI describes their form.
    hidden("/v1/chat/completions")(models.handler(openai.chat))
    hidden("/v1/completions")(models.handler(openai.completions))

    @app.get("/v1/models", include_in_schema=False)
    async def served_models() -> dict[str, Any]:
        return {"object": "list", "data": [describe_model(model) for model in served()]}

    @app.get("/v1/models/{model:path}", include_in_schema=False)
    async def served_model(model: str) -> dict[str, Any]:
        return describe_model(model_called(models.current, model))

    # For the page: the model, its tools, and contexts to start from.
    @app.get("/v1/model", responses=schemas.ERRORS)
    async def model() -> schemas.ModelAnswer:
        """What the server runs, and what its tools mean."""
        main = models.current.main
        library = main.library
        # Words for codes, as the library's service has them.
        return schemas.ModelAnswer(
            model=main.name,
            mode=settings.mode,
            library=library.name,
            tool_key=library.tool_key,
            tools={
                name: schemas.ToolAnswer(
                    meaning=tool.meaning, parameters=[*tool.parameters, *tool.optional]
                )
                for name, tool in library.tools.items()
            },
            deadline_ms=settings.deadline_ms,
            labels=(dict(Service.load(library.folder).file.labels) if library.folder else {})
            | settings.labels,
        )

    examples_answer = schemas.ExamplesAnswer(examples=[])
    for sample in example_samples(settings.examples, library):
        told = (sample.trigger_1, sample.current_tag, sample.currenttime[5:16])
        # Without an id they take no part in an A/B test.
        context = {n: t for n, t in sample.context().items() if n != sample.form.names["id"]}
        example = schemas.Example(name=" · ".join(filter(None, told)), context=context)
        examples_answer.examples.append(example)

    @app.get("/v1/examples", responses=schemas.ERRORS)
    async def examples() -> schemas.ExamplesAnswer:
        """Simulated contexts to try."""
        return examples_answer

    # For who runs the server.
    if settings.admin_key is not None:

        @app.post("/admin/reload", include_in_schema=False)
        async def reload(request: Request) -> dict[str, Any]:
            """Puts another model in the place of one; see ``Models.reload``."""
            body = validate(schemas.ReloadBody, await planning.read(request))
            path = None if body.model is None else local_path(body.model)
            try:
                return await asyncio.to_thread(models.reload, path, body.arm or MAIN)
            except BadOption as error:
                raise ApiError(422, "bad_request", str(error), column=error.path) from None
            except GplanError as error:
                raise ApiError(422, "bad_model", str(error), column="model") from None
            except Exception as error:  # the device's memory, say; the model before stays
                message = f"The model can't be served ({type(error).__name__})"
                raise ApiError(500, "bad_model", f"{message}; the one before stays.") from error

    probe: dict[str, Any] = {
        "responses": {503: schemas.PLAN_ERRORS[503]},
        "response_model_exclude_none": True,
    }

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", **probe)
    async def healthz() -> schemas.StatusAnswer:
        """Whether the process is well: 503 once the engine has failed, and only a restart helps."""
        gate.check_alive()
        return schemas.StatusAnswer(status="ok")

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", **probe)
    async def readyz() -> schemas.StatusAnswer:
        """Whether plan requests are taken: 503 while the model loads and once the server stops."""
        gate.check()
        works = models.snapshot().replicas
        replicas = f"{sum(works.values())} of {len(works)}" if works else None
        arms = None
        if settings.experiment:
            arms = {arm: models.current.of(arm).name for arm in settings.experiment.arms}
        return schemas.StatusAnswer(status="ready", replicas=replicas, arms=arms)

    @app.head("/metrics", include_in_schema=False)
    @app.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    # What is told of errors.
    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        if request.url.path.startswith("/v1/"):
            metrics.count_outcome(error.code)
        request.state.log["code"] = error.code
        return error.response(request.url.path)

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        response = ApiError(error.status_code, code, f"{error.detail}.").response(request.url.path)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(HungUp)
    @app.exception_handler(ClientDisconnect)
    async def hung_up(request: Request, error: Exception) -> Response:
        metrics.count_outcome("cancelled")
        return Response(status_code=HUNG_UP)

    serve_files(app, PAGE_FILES)
    named = {"/v1/plan": bodies.plan, "/v1/plans": bodies.plans}
    schemas.describe(app, settings, named, bodies.example)
    app.add_middleware(RequestShell, settings=settings, metrics=metrics, gate=gate, tracer=tracer)
    return app


def example_samples(count: int, library: IntentLibrary) -> list[Sample]:
    """``count`` simulated contexts, as different as their orders and current places are.

    None where the service has no simulated world.
    """
    own_world = library.folder is not None and (library.folder / WORLD).is_file()
    if not count or (library.rows is not None and not own_world):
        return []
    kinds: dict[tuple[str, str], Sample] = {}
    for sample in islice(world_contexts(library, EXAMPLE_SEED), EXAMPLE_ROWS):
        kinds.setdefault((sample.trigger_1, sample.current_tag), sample)
    # One context of each order type first, then a second one of each, and so on.
    seen: Counter[str] = Counter()
    rounds: list[tuple[int, Sample]] = []
    for sample in kinds.values():
        rounds.append((seen[sample.trigger_1], sample))
        seen[sample.trigger_1] += 1
    return [sample for _, sample in sorted(rounds, key=lambda entry: entry[0])[:count]]
