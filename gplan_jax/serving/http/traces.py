"""W3C trace context of requests, and, with the extra ``otel``, their spans for OpenTelemetry.

A request is a span of the server with its waiting, its prefill and each decode pass below it. They
are made once the answer is there, from the times that the engine took anyway, so tracing costs the
engine nothing. Spans hold routes, statuses, codes and sizes; never contexts, plans or names.
Where spans go is said by OpenTelemetry's own environment variables (OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER ...).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

# It ignores a malformed header, as the specification wants: the request starts a new trace.
W3C = TraceContextTextMapPropagator()


class RequestTrace:
    """The trace of one request, from its arrival on: ``header`` is its ``traceparent``."""

    def __init__(self, header: str, tracer: Tracer | None) -> None:
        self._tracer, self._arrived_ns = tracer, time.time_ns()
        caller = W3C.extract({"traceparent": header})
        if tracer is not None:
            self._span = tracer.start_span("request", context=caller, kind=SpanKind.SERVER)
        else:
            parent = trace.get_current_span(caller).get_span_context()
            trace_id = parent.trace_id or secrets.randbits(128) or 1
            own = SpanContext(trace_id, secrets.randbits(64) or 1, False, parent.trace_flags)
            self._span = trace.NonRecordingSpan(own)
        carrier: dict[str, str] = {}
        W3C.inject(carrier, trace.set_span_in_context(self._span))
        self.header = carrier["traceparent"]
        self.trace_id = trace.format_trace_id(self._span.get_span_context().trace_id)

    def finish(self, name: str, status: int, fields: Mapping[str, Any]) -> None:
        """Ends the span, as failed from status 500 on, and adds those of the engine's work where
        ``fields`` has their times: the log line's ``timings_ms``, and ``pass_ms`` of each pass.
        """
        if self._tracer is None:
            return
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
            below = trace.set_span_in_context(self._span)
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
