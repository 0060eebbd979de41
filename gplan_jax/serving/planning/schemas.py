"""The bodies of requests and answers, and the OpenAPI description of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import pydantic
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import Field, StringConstraints
from pydantic.json_schema import models_json_schema

from gplan_jax.gsisr import RowForm, Sample
from gplan_jax.serving.http.bodies import StrictBody
from gplan_jax.serving.http.settings import ServerSettings

MAX_VALUE_CHARS = 16_384
MAX_CONTEXTS = 64
MAX_BEST, MAX_INTENTS = 20, 64
MAX_SEED = 2**31 - 1

# NUL ends texts in too many places to be let in; lone surrogates pydantic refuses by itself.
Text = Annotated[str, StringConstraints(max_length=MAX_VALUE_CHARS, pattern=r"^[^\u0000]*$")]
IntentBody = Annotated[dict[str, str], Field(max_length=16)]


class ContextBody(StrictBody):
    """The columns of one row, every value text; one that is left out is empty.

    ``bodies_of`` makes its columns those of a service; that of plans may be there, and is not read.
    """

    form: ClassVar[RowForm]  # the service's

    def sample(self) -> Sample:
        """The row to plan for, without a label."""
        form = self.form
        texts = {name: getattr(self, field) for field, name in _fields_of(form).items()}
        return Sample.from_context(texts, None if form.is_public else form).with_label("")

    def columns(self) -> dict[str, str]:
        """Column -> text."""
        return {name: getattr(self, field) for field, name in _fields_of(self.form).items()}


class _Options(StrictBody):
    deadline_ms: int | None = Field(
        default=None, ge=1, description="Milliseconds after which the answer is of no use."
    )
    temperature: float = Field(
        default=0.0,
        ge=0.0,
        le=10.0,
        allow_inf_nan=False,
        description="0 takes the likeliest plan; above, plans are drawn.",
    )
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="Of the draws; one seed, one plan.")
    best: int = Field(
        default=0,
        ge=0,
        le=MAX_BEST,
        description="Likeliest whole plans to search for; 0 decodes one, token by token.",
    )


def _intents(description: str) -> Any:
    return Field(default=[], max_length=MAX_INTENTS, description=description)


class PlanBody(_Options):
    """One context to plan for, and what the user made of earlier plans for it."""

    context: ContextBody
    accepted: list[IntentBody] = _intents("Intents that the plan begins with, in this order.")
    dismissed: list[IntentBody] = _intents("Intents that the plan must not hold.")
    shown: list[IntentBody] = _intents(
        "All that the user has seen; where given, accepted and dismissed ones must be among them."
    )


class PlansBody(_Options):
    """Several contexts; options and deadline hold for each of them."""

    contexts: list[ContextBody] = Field(min_length=1, max_length=MAX_CONTEXTS)


class ErrorDetail(StrictBody):
    """Why there is no answer."""

    code: str = Field(description="For programs.")
    message: str = Field(description="For people.")
    column: str | None = Field(default=None, description="The column at fault, where one is.")


class ErrorAnswer(StrictBody):
    """Body of every answer that is no plan."""

    error: ErrorDetail


class ViolationAnswer(StrictBody):
    """A rule that the plan breaks."""

    tier: Literal["format", "schema", "logic"]
    code: str
    message: str


class Timings(StrictBody):
    """Milliseconds: waiting for a slot, prefill, decoding, and all from arrival to answer."""

    queue: float
    prefill: float
    decode: float
    total: float


class Usage(StrictBody):
    """What the answer cost.

    Prompt tokens, those of them that came from the prefix cache, tokens of the response,
    sequential passes over the weights, tokens that were drafted and that turned out right.
    """

    prompt_tokens: int
    cached_tokens: int
    response_tokens: int
    passes: int
    drafted_tokens: int
    accepted_tokens: int


class ExperimentAnswer(StrictBody):
    """The A/B test that the server divides users for, and the arm of this one."""

    name: str
    arm: str


PlanSteps = list[dict[str, str]]


class BestPlanAnswer(StrictBody):
    """One of the likeliest plans; the log-probability is natural, among all valid plans."""

    plan: PlanSteps
    text: str
    log_probability: float


class FirstIntentAnswer(StrictBody):
    """An intent, and the probability that a plan begins with it."""

    intent: dict[str, str]
    probability: float


class BestAnswer(StrictBody):
    """The likeliest plans, likeliest first."""

    plans: list[BestPlanAnswer]
    exact: bool = Field(description="Whether it is proven that no other plan is likelier.")
    first_intents: list[FirstIntentAnswer] = Field(
        description="Likeliest first; what lacks to 1 lies behind beginnings below 0.0001."
    )


class PlanResult(StrictBody):
    """A plan, whether it may be carried out, and what it cost."""

    id: str = Field(description="Id of the request, as in X-Request-Id.")
    model: str
    plan: PlanSteps = Field(description="Tool calls in order; [] where none was found.")
    text: str = Field(description="The whole response of the model.")
    latent_valid: bool | None = Field(
        description="Whether the latent prefix is well formed; null for a model without one."
    )
    passed: bool = Field(description="Whether the rule filter found nothing.")
    violations: list[ViolationAnswer]
    timings_ms: Timings
    usage: Usage
    experiment: ExperimentAnswer | None = Field(
        default=None,
        description="Left out where no experiment runs or the user takes no part in it.",
    )

    best: BestAnswer | None = Field(
        default=None, description="Left out where the request asks for none; `plan` is its first."
    )

    def body(self) -> dict[str, Any]:
        """The answer as JSON values, without what may be left out and is not there."""
        optional = {"experiment": self.experiment, "best": self.best}
        return self.model_dump(exclude={key for key, value in optional.items() if value is None})


class PlansResult(StrictBody):
    """One answer or error a context, in their order."""

    results: list[PlanResult | ErrorAnswer]


class ToolAnswer(StrictBody):
    """A tool of the intent library."""

    meaning: str
    parameters: list[str]


class ModelAnswer(StrictBody):
    """What the server runs."""

    model: str
    mode: str
    library: str
    tool_key: str
    tools: dict[str, ToolAnswer]
    deadline_ms: int
    labels: dict[str, str] = Field(description="Words for codes in contexts, for people.")


class ReloadBody(StrictBody):
    """A model directory on the server's disk; left out, the one that it was started with. With
    ``arm`` it is that arm's of the A/B test.
    """

    model: str | None = None
    arm: str | None = Field(default=None, min_length=1)


class StatusAnswer(StrictBody):
    """One word on the server's state; of several replicas, how many work; of an A/B test's arms,
    which model plans for each.
    """

    status: str
    replicas: str | None = None
    arms: dict[str, str] | None = None


class Example(StrictBody):
    """A simulated context under a name."""

    name: str
    context: dict[str, str]


class ExamplesAnswer(StrictBody):
    """Simulated contexts, no real users'."""

    examples: list[Example]


def _error(description: str) -> dict[str, Any]:
    return {"model": ErrorAnswer, "description": description}


ERRORS: dict[int | str, dict[str, Any]] = {401: _error("The API key is missing or wrong.")}
PLAN_ERRORS: dict[int | str, dict[str, Any]] = ERRORS | {
    400: _error("The body is no JSON."),
    408: _error("The body came too slowly."),
    413: _error("The body is too large."),
    415: _error("The body is not declared as plain JSON."),
    422: _error("A key or a column is wrong; the message names it."),
    500: _error("A fault of the server; the message names the request."),
    503: _error("Overloaded, starting or about to stop; try again after Retry-After seconds."),
    504: _error("Not ready before the deadline."),
}


def _fields_of(form: RowForm) -> dict[str, str]:
    """Attribute of a context body -> column; columns may be called anything, attributes not."""
    return {f"column_{number}": name for number, name in enumerate(form.columns)}


@dataclass(frozen=True)
class Bodies:
    """The bodies of requests for the rows of a service."""

    plan: type[PlanBody]
    plans: type[PlansBody]
    context: type[ContextBody]
    example: dict[str, str]  # a context


def bodies_of(form: RowForm) -> Bodies:
    """The bodies of requests whose contexts have the columns of ``form``."""
    fields: dict[str, Any] = {}
    for field, name in _fields_of(form).items():
        column = form.columns[name]
        fields[field] = (
            Text,
            Field(
                default="",
                alias=name,
                description=column.about or name,
                examples=[column.example] if column.example else None,
                json_schema_extra={
                    "x-group": "" if name == form.label else column.group,
                    "x-field": form.fields.get(name, name),  # what the page knows it by
                },
            ),
        )
    context = pydantic.create_model("ContextBody", __base__=ContextBody, **fields)
    context.form = form
    one = pydantic.create_model("PlanBody", __base__=PlanBody, context=(context, ...))
    many = pydantic.create_model(
        "PlansBody",
        __base__=PlansBody,
        contexts=(Annotated[list[context], Field(min_length=1, max_length=MAX_CONTEXTS)], ...),
    )
    example = {name: column.example for name, column in form.columns.items() if column.example}
    return Bodies(one, many, context, example)


def describe(
    app: FastAPI,
    settings: ServerSettings,
    bodies: Mapping[str, type[pydantic.BaseModel]],
    example: Mapping[str, str],
) -> None:
    """Makes ``app.openapi`` name the request bodies, by path, and the API key where one is set."""
    examples = {"context": example}, {"contexts": [example]}

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, summary=app.summary, routes=app.routes
            )
            components = document.setdefault("components", {})
            _, definitions = models_json_schema(
                [(model, "validation") for model in bodies.values()],
                ref_template="#/components/schemas/{model}",
            )
            components.setdefault("schemas", {}).update(definitions["$defs"])
            for (path, model), example in zip(bodies.items(), examples, strict=True):
                reference = {"$ref": f"#/components/schemas/{model.__name__}"}
                content = {"application/json": {"schema": reference, "example": example}}
                document["paths"][path]["post"]["requestBody"] = {
                    "required": True,
                    "content": content,
                }
            if settings.api_key is not None:
                components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
                for path, operations in document["paths"].items():
                    if path.startswith("/v1/"):
                        for operation in operations.values():
                            operation["security"] = [{"key": []}]
            # Clients know the columns of a row as the schema Context.
            text = json.dumps(document).replace(ContextBody.__name__, "Context")
            app.openapi_schema = json.loads(text)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
