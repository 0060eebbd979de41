"""How a request can fail: one kind of error, with its status and what a client is told."""

from __future__ import annotations

import json
import math

from starlette.responses import JSONResponse

RETRY_AFTER_S = 1.0
OPENAI_ROUTES = ("/v1/models", "/v1/chat/", "/v1/completions")


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
