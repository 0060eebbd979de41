"""A request's body: read under a limit, parsed strictly, checked against its schema.

Any bytes end in a valid model or an ``ApiError``.

A request can fail by one kind of error, with its status and what a client is told. The files of the
servers' pages stand here too, and the headers that keep browsers to them.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse

from gplan_jax.foundation import files
from gplan_jax.foundation.config import fields_at
from gplan_jax.foundation.errors import nearest

RETRY_AFTER_S = 1.0
OPENAI_ROUTES = ("/v1/models", "/v1/chat/", "/v1/completions")
# The stylesheet and the helpers that the pages of all servers use.
SHARED_PAGE_FILES = tuple(Path(__file__).parent / "page" / name for name in ("style.css", "dom.js"))
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class ApiError(Exception):
    """A request that is not answered with a plan; ``status`` is the HTTP response's.

    ``code`` is a word for programs and the outcome that metrics count; ``message`` is for people
    and may name keys and columns, but no server internals.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        column: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.column, self.retry_after_s = column, retry_after_s

    def to_dict(self) -> dict[str, str]:
        """The value of ``error`` in a response's body."""
        fields = {"code": self.code, "message": self.message}
        return fields | ({"column": self.column} if self.column else {})

    def response(self, path: str = "") -> JSONResponse:
        """The whole response to a request for ``path``, in OpenAI's form on its routes. A body that
        was not read to its end ends the connection.
        """
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status in (408, 413):
            headers["Connection"] = "close"
        if not path.startswith(OPENAI_ROUTES):
            return AsciiResponse({"error": self.to_dict()}, self.status, headers)
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.column, "code": self.code}
        return AsciiResponse({"error": error}, 400 if self.status == 422 else self.status, headers)


class AsciiResponse(JSONResponse):
    """JSON with every other character escaped, so that no text of a user can break the encoding."""

    def render(self, content: object) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def overloaded(retry_after_s: float = RETRY_AFTER_S) -> ApiError:
    """No slot and no place in the queue is free."""
    message = "The queue is full; try again later."
    return ApiError(503, "overloaded", message, retry_after_s=retry_after_s)


def draining() -> ApiError:
    """The server has been told to stop."""
    return ApiError(503, "draining", "The server is about to stop.", retry_after_s=RETRY_AFTER_S)


def serve_files(app: FastAPI, files: Mapping[str, Path]) -> None:
    """Routes to files, by path."""

    def route(file: Path) -> Callable[[], Awaitable[FileResponse]]:
        async def serve() -> FileResponse:
            return FileResponse(file, headers={"Cache-Control": "no-cache"})

        return serve

    for path, file in files.items():
        app.add_api_route(path, route(file), methods=["GET", "HEAD"], include_in_schema=False)


class StrictBody(pydantic.BaseModel):
    """A body whose keys are all known and whose values have their types."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)


Body = TypeVar("Body", bound=pydantic.BaseModel)
MOST_FAULTS, LONGEST_KEY = 5, 60
_PLAINER = {
    "string_type": "must be text",
    "string_pattern_mismatch": "may not hold the character NUL",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "model_type": "must be an object",
    "list_type": "must be a list",
}


async def read_json(request: Request, *, max_bytes: int, timeout_s: float) -> tuple[Any, int]:
    """The JSON value of a request's body, and how many bytes that was.

    Raises:
        ApiError: 415 for another content type, 413 for more than ``max_bytes``, 408 where the body
            takes longer than ``timeout_s``, 400 where it is no UTF-8 JSON.
        ClientDisconnect: the client has gone.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "not_json", "Send the body with Content-Type: application/json.")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError(415, "encoded_body", "Send the body as it is, without a Content-Encoding.")
    too_large = ApiError(413, "too_large", f"The body may have at most {max_bytes} bytes.")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large
    except TimeoutError:
        message = f"The body did not arrive within {timeout_s:g} s."
        raise ApiError(408, "slow_body", message) from None
    return parse_json(body), len(body)


def parse_json(body: bytes | bytearray) -> Any:
    """Parses UTF-8 JSON by the standard, as ``files.parse_json`` does; ApiError 400."""
    try:
        return files.parse_json(bytes(body))
    except UnicodeDecodeError as error:
        message = f"The body is not UTF-8: byte {error.start} can't be read."
    except json.JSONDecodeError as error:
        message = f"The body is not JSON: {error.msg} at character {error.pos}."
    except ValueError as error:
        message = f"The body is not acceptable JSON: {_shown(str(error), 200)}."
    raise ApiError(400, "bad_json", message)


def validate(kind: type[Body], value: Any) -> Body:
    """Checks a JSON value against a schema; ApiError 422 names the first few keys at fault."""
    try:
        return kind.model_validate(value)
    except pydantic.ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        more = len(faults) - MOST_FAULTS
        lines = [_explain(kind, fault["loc"], fault) for fault in faults[:MOST_FAULTS]]
        message = "; ".join(lines) + (f"; and {more} more faults" if more > 0 else "") + "."
        in_context = any(part in ("context", "contexts") for f in faults for part in f["loc"])
        code = "bad_context" if in_context else "bad_request"
        raise ApiError(422, code, message, column=_column(faults)) from None


def _column(faults: list[Any]) -> str | None:
    """The first column of a context at fault, else the path of another key; None where no fault
    is in a key of the schema.
    """
    for fault in faults:
        where = [str(part) for part in fault["loc"]]
        if not where or fault["type"] == "extra_forbidden":
            continue
        if where[0] not in ("context", "contexts"):
            return ".".join(where)
        if len(where) > 1 and not where[-1].isdecimal():
            return where[-1]
    return None


def _explain(kind: type[pydantic.BaseModel], location: tuple[str | int, ...], fault: Any) -> str:
    where = ".".join(_shown(part) for part in location) or "the body"
    if fault["type"] == "missing":
        return f"{where} is missing"
    if fault["type"] in _PLAINER:
        return f"{where} {_PLAINER[fault['type']]}"
    if fault["type"] != "extra_forbidden":
        return f"{where}: {fault['msg']}"
    known = fields_at(kind, [str(part) for part in location[:-1]])
    return f"{where} is unknown; {nearest(str(location[-1])[:LONGEST_KEY], known)}"


def _shown(part: str | int, most: int = LONGEST_KEY) -> str:
    """A key for an error message, cut short and printable."""
    text = str(part)
    text = text if len(text) <= most else text[:most] + "..."
    return text if text.isprintable() else ascii(text)
