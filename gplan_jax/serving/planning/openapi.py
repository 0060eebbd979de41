"""The OpenAPI description, with the bodies that the endpoints read by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from gplan_jax.serving.http.settings import ServerSettings
from gplan_jax.serving.planning.schemas import Context, ErrorAnswer


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
EXAMPLE_CONTEXT = {
    name: field.examples[0] for name, field in Context.model_fields.items() if field.examples
}


def describe(
    app: FastAPI, settings: ServerSettings, bodies: Mapping[str, type[pydantic.BaseModel]]
) -> None:
    """Makes ``app.openapi`` name the request bodies, by path, and the API key where one is set."""
    examples = {"context": EXAMPLE_CONTEXT}, {"contexts": [EXAMPLE_CONTEXT]}

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
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
