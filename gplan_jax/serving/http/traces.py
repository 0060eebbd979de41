"""W3C trace context of requests, and, with the extra ``otel``, their spans for OpenTelemetry.

A request is a span of the server with its waiting, its prefill and each decode pass below it. They
are made once the answer is there, from the times that the engine took anyway, so tracing costs the
engine nothing. Spans hold routes, statuses, codes and sizes; never contexts, plans or names.
Where spans go is said by OpenTelemetry's own environment variables (OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER ...).
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

# https://www.w3.org/TR/trace-context/: version 00 has four fields, later ones may add some.
TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)


@dataclass(frozen=True)
class TraceContext:
    """The place of a span: its trace, itself, and whether its caller records the trace."""

    trace_id: str
    span_id: str
    sampled: bool = False

    @property
    def header(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"


def read_traceparent(header: str) -> TraceContext | None:
    """The caller's span; None where the header is missing or malformed, which starts a new trace.

    A malformed header is no error: the specification wants the request served all the same.
    """
    found = TRACEPARENT.fullmatch(header.strip())
    if found is None or (found["version"] == "00" and found["more"]):
        return None
    return TraceContext(found["trace"], found["span"], bool(int(found["flags"], 16) & 1))


class RequestTrace:
    """The trace of one request, from its arrival on."""

    def __init__(self, header: str, tracer: Tracer | None) -> None:
        self._tracer, self._arrived_ns = tracer, time.time_ns()
        self._span: Any = None
        if tracer is not None:
            from opentelemetry.trace import SpanKind
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            caller = TraceContextTextMapPropagator().extract({"traceparent": header})
            self._span = tracer.start_span("request", context=caller, kind=SpanKind.SERVER)
            context = self._span.get_span_context()
            self.context = TraceContext(
                f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled
            )
        else:
            parent = read_traceparent(header) or TraceContext(secrets.token_hex(16), "")
            self.context = replace(parent, span_id=secrets.token_hex(8))

    def finish(self, name: str, status: int, fields: Mapping[str, Any]) -> None:
        """Ends the span, as failed from status 500 on, and adds those of the engine's work where
        ``fields`` has their times: the log line's ``timings_ms``, and ``pass_ms`` of each pass.
        """
        if self._span is None or self._tracer is None:
            return
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        self._span.update_name(name)
        self._span.set_attribute("http.response.status_code", status)
        for key, value in (fields.get("usage") or {}).items():
            self._span.set_attribute(f"gplan.{key}", value)
        if code := fields.get("code"):
            self._span.set_attribute("error.type", str(code))
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))
        end_ns = time.time_ns()
        timings = fields.get("timings_ms") or {}
        if timings:
            parts = [("queue", timings["queue"]), ("prefill", timings["prefill"])]
            parts += [("decode pass", ms) for ms in fields.get("pass_ms", ())]
            # The engine's work ends with the answer; before it lie reading and checking the body.
            inside = timings["queue"] + timings["prefill"] + timings["decode"]
            at = self._arrived_ns + max(0.0, timings["total"] - inside) * 1e6
            below = set_span_in_context(self._span)
            for part, ms in parts:
                span = self._tracer.start_span(part, context=below, start_time=round(at))
                at += ms * 1e6
                span.end(min(round(at), end_ns))
        self._span.end(end_ns)


def load_tracer(version: str) -> Tracer:
    """A tracer whose spans go to an OTLP collector, as OTEL_* variables say."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before what stands here.
    provider = TracerProvider(resource=Resource.create({"service.version": version}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("gplan_jax", version)
