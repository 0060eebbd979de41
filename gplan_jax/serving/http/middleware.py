"""Around every request: admission, id, log line, headers, API key, unexpected exceptions."""

from __future__ import annotations

import hmac
import re
import secrets
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gplan_jax.inference.engine.requests import Engine
from gplan_jax.serving.http.bodies import (
    RETRY_AFTER_S,
    SECURITY_HEADERS,
    ApiError,
    draining,
    overloaded,
)
from gplan_jax.serving.http.settings import ServerSettings
from gplan_jax.serving.http.telemetry import RequestTrace, ServerMetrics, log

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PROTECTED, ADMIN = "/v1/", "/admin/"
PLANNING = ("/v1/plan", "/v1/plans", "/v1/chat/completions", "/v1/completions")
HUNG_UP = 499


@dataclass
class Gate:
    """The server's own state beside its engine's."""

    engine: Engine
    draining: bool = False  # The server is about to stop.
    started: bool = False  # The engine has been ready; where it no longer is, it has failed.
    # Plan requests that were let in and are not answered yet. Those whose bodies are still read are
    # in no queue, and under an overload they are the most.
    inside: int = 0

    def check(self) -> None:
        """Raises ApiError (503) where no plans are made now."""
        if problem := self._problem():
            raise problem

    def check_alive(self) -> None:
        """Raises ApiError (503) where the engine has failed; only a new process helps."""
        problem = self._problem()
        if problem and problem.code == "failed":
            raise problem

    def check_room(self, deadline_s: float) -> None:
        """As ``check``, also where the queue is full, or longer than a deadline. It is cheap."""
        self.check()
        state = self.engine.snapshot()
        full = max(self.inside, state.queued + state.active) >= state.queue_limit + state.slots
        if full or state.expected_wait_s > deadline_s:
            raise overloaded(max(RETRY_AFTER_S, state.expected_wait_s))

    def _problem(self) -> ApiError | None:
        if self.draining:
            return draining()
        if self.engine.snapshot().ready:
            self.started = True
            return None
        if self.started:
            return ApiError(503, "failed", "The engine has failed; the server must be restarted.")
        return ApiError(503, "starting", "The model is being loaded.", retry_after_s=RETRY_AFTER_S)


class RequestShell:
    """Wraps the app: every request gets an id, is logged, counted and, whatever happens, answered.

    ``scope["state"]`` has ``request_id``, ``started`` (``time.monotonic``) and ``log``: fields of
    the log line, to which endpoints add theirs.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        metrics: ServerMetrics,
        gate: Gate,
        tracer: Tracer | None = None,
    ) -> None:
        self._app, self._settings, self._metrics, self._gate = app, settings, metrics, gate
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection event of the ASGI server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # A redirect to the path without its slash would lose a proxy's scheme and prefix.
        scope["path"] = scope["path"].rstrip("/") or "/"
        request = _Request(scope, self._tracer)
        scope.setdefault("state", {}).update(
            request_id=request.id, started=request.started, log=request.fields
        )

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request.id
                if request.trace is not None:
                    headers["traceparent"] = request.trace.header
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        planning = scope["method"] == "POST" and scope["path"] in PLANNING
        refusal = self._refusal(scope, planning=planning)
        entered = planning and refusal is None
        self._gate.inside += entered
        try:
            if refusal is not None:
                request.fields["code"] = refusal.code
                self._metrics.count_outcome(refusal.code)
                await refusal.response(scope["path"])(scope, receive, send_marked)
            else:
                await self._app(scope, receive, send_marked)
        except Exception as error:
            # An exception's type and place; its message might quote a user.
            frames = traceback.extract_tb(error.__traceback__)[-6:]
            places = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in frames]
            log("fault", request_id=request.id, error=type(error).__name__, at=places)
            if request.status is not None:
                raise
            message = f"Something failed in the server; the log names it by request {request.id}."
            fault = ApiError(500, "internal", message)
            self._metrics.count_outcome(fault.code)
            await fault.response(scope["path"])(scope, receive, send_marked)
        finally:
            self._gate.inside -= entered
            self._finish(scope, request)

    def _refusal(self, scope: Scope, *, planning: bool) -> ApiError | None:
        if (hosts := self._settings.hosts) and (host := host_of(scope)) not in hosts:
            message = f"This server does not answer for the host {host!r}; see --allow-host."
            return ApiError(421, "unknown_host", message)
        for key, below in ((self._settings.api_key, PROTECTED), (self._settings.admin_key, ADMIN)):
            if key is None or not scope["path"].startswith(below):
                continue
            scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
            sound = hmac.compare_digest(given.encode("latin-1"), key.get_secret_value().encode())
            if scheme.lower() != "bearer" or not sound:
                return ApiError(401, "unauthorized", "Send the key as Authorization: Bearer KEY.")
        if planning:
            # Here a refusal costs a fraction of what it does after routing and parsing.
            try:
                self._gate.check_room(self._settings.deadline_ms / 1000)
            except ApiError as error:
                return error
        return None

    def _finish(self, scope: Scope, request: _Request) -> None:
        route = getattr(scope.get("route"), "path", None)
        if route is None and scope["path"] in PLANNING:
            route = scope["path"]
        status = request.status or HUNG_UP
        self._metrics.count_http(route or "other", status)
        method = scope["method"] if scope["method"] in METHODS else "other"
        if request.trace is not None:
            pass_ms = scope["state"].get("pass_ms", ())
            fields = request.fields | {"pass_ms": pass_ms}
            request.trace.finish(f"{method} {route or 'other'}", status, fields)
        log(
            "request",
            request_id=request.id,
            trace_id=request.trace and request.trace.trace_id,
            method=method,
            path=route or "other",
            status=status,
            ms=round(1000 * (time.monotonic() - request.started), 3),
            **request.fields,
        )


def host_of(scope: Scope) -> str:
    """The name in the Host header, in lower case, without a port."""
    host = Headers(scope=scope).get("host", "").lower()
    return host if host.endswith("]") else host.rpartition(":")[0] or host


class _Request:
    """A request's id, arrival, trace, status once sent, and log fields."""

    def __init__(self, scope: Scope, tracer: Tracer | None) -> None:
        headers = Headers(scope=scope)
        given, traceparent = headers.get("x-request-id", ""), headers.get("traceparent", "")
        # Probes and pages are no part of anybody's trace.
        traced = scope["path"].startswith(PROTECTED) and (traceparent or tracer is not None)
        self.trace = RequestTrace(traceparent, tracer) if traced else None
        self.id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        self.started = time.monotonic()
        self.status: int | None = None
        self.fields: dict[str, object] = {}
