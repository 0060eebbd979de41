"""A server's log lines, its Prometheus metrics in a registry of its own, and traces of requests.

The log has one JSON object a line: times, sizes, statuses and codes. Contexts are written only
where the settings say so; responses, messages that may quote a request, and keys never are.

Traces: the W3C trace context of requests, and, with the extra ``otel``, their spans for
OpenTelemetry. A request is a span of the server with its waiting, its prefill and each decode pass
below it. They are made once the answer is there, from the times that the engine took anyway, so
tracing costs the engine nothing. Spans hold routes, statuses, codes and sizes; never contexts,
plans or names. Where spans go is said by OpenTelemetry's own environment variables
(OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER ...).
"""

from __future__ import annotations

import json
import logging
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, Counter, Histogram, core, generate_latest
from prometheus_client.registry import Collector

from gplan_jax.inference.engine.requests import ENDS, EngineSnapshot, PlanAnswer

logger = logging.getLogger("gplan.server")

SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30,
)  # fmt: skip
PASSES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 50, 100, 200)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# It ignores a malformed header, as the specification wants: the request starts a new trace.
W3C = TraceContextTextMapPropagator()


def configure_logging() -> None:
    """Sends the server's lines, and nothing else of it, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


def log(event: str, **fields: Any) -> None:
    """Writes one line; fields that are None are left out."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    known = {key: value for key, value in fields.items() if value is not None}
    logger.info(json.dumps({"time": stamp, "event": event, **known}, default=str))


class ServerMetrics:
    """Counts of requests and answers, and the engine's own state at the time of reading."""

    def __init__(self, snapshot: Callable[[], EngineSnapshot]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_WhenRead(lambda: _engine_metrics(snapshot())))

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(name, text, registry=self.registry, buckets=buckets)

        self._http = counter("gplan_http_requests", "HTTP requests.", "path", "status")
        self._outcomes = counter("gplan_requests", "Contexts by how they ended.", "outcome")
        self._filtered = counter("gplan_plans", "Plans by the rule filter's verdict.", "filter")
        self._prompt = counter("gplan_prompt_tokens", "Tokens of prompts.")
        self._cached = counter("gplan_cached_tokens", "Those of them from the prefix cache.")
        self._response = counter("gplan_response_tokens", "Tokens of responses.")
        self._drafted = counter("gplan_drafted_tokens", "Tokens offered to a pass as drafts.")
        self._accepted = counter("gplan_accepted_tokens", "Drafted tokens that were right.")
        self._passes = histogram("gplan_plan_passes", "Sequential passes of a plan.", PASSES)
        self._arms = Histogram(
            "gplan_arm_request_seconds",
            "From arrival to the answer of users in an arm of the A/B test.",
            ["arm"],
            registry=self.registry,
            buckets=SECONDS,
        )
        self._seconds = (
            histogram("gplan_queue_seconds", "Wait for a slot."),
            histogram("gplan_prefill_seconds", "Prefill of a plan."),
            histogram("gplan_decode_seconds", "Decoding after the prefill."),
            histogram("gplan_request_seconds", "From arrival to a plan's answer."),
        )

    def tell_models(self, current: Callable[[], Iterable[tuple[str, str]]]) -> None:
        """Shows the names and revisions that ``current`` gives when metrics are read."""

        def models() -> Iterator[core.Metric]:
            text, labels = "The models that plan now.", ["model", "revision"]
            info = core.GaugeMetricFamily("gplan_model_info", text, labels=labels)
            for name_and_revision in current():
                info.add_metric([*name_and_revision], 1)
            yield info

        self.registry.register(_WhenRead(models))

    def count_http(self, path: str, status: int) -> None:
        """Counts a response; ``path`` is a route, never what a client made up."""
        self._http.labels(path, str(status)).inc()

    def count_outcome(self, outcome: str) -> None:
        """Counts a context that got no plan, by ``cancelled`` or the code of its error."""
        self._outcomes.labels(outcome).inc()

    def observe(self, answer: PlanAnswer, *, passed: bool, total_ms: float) -> None:
        """Counts a plan and adds what it cost."""
        self.count_outcome("ok")
        self._filtered.labels("passed" if passed else "violated").inc()
        self._prompt.inc(answer.prompt_tokens)
        self._cached.inc(answer.cached_tokens)
        self._response.inc(answer.tokens)
        self._drafted.inc(answer.drafted)
        self._accepted.inc(answer.accepted)
        self._passes.observe(answer.passes)
        parts = (answer.queue_ms, answer.prefill_ms, answer.decode_ms, total_ms)
        for histogram, milliseconds in zip(self._seconds, parts, strict=True):
            histogram.observe(milliseconds / 1000)

    def observe_arm(self, arm: str, total_ms: float) -> None:
        """Counts an answer for a user of an arm."""
        self._arms.labels(arm).observe(total_ms / 1000)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class _WhenRead(Collector):
    """Metrics that are worked out each time that they are asked for."""

    def __init__(self, read: Callable[[], Iterator[core.Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterator[core.Metric]:
        return self._read()


def _labelled(
    metric: core.GaugeMetricFamily | core.CounterMetricFamily, values: Mapping[str, float]
) -> core.Metric:
    for label, value in values.items():
        metric.add_metric([label], value)
    return metric


def _engine_metrics(state: EngineSnapshot) -> Iterator[core.Metric]:
    share = state.active / state.slots if state.slots else 0.0
    gauges: dict[str, tuple[float, str]] = {
        "gplan_ready": (int(state.ready), "1 once all programs are compiled."),
        "gplan_queued_requests": (state.queued, "Requests that wait for a slot."),
        "gplan_queue_limit": (state.queue_limit, "Requests that may wait."),
        "gplan_active_slots": (state.active, "Requests that hold a slot."),
        "gplan_slots": (state.slots, "Requests that may be decoded together."),
        "gplan_prefix_cache_bytes": (state.prefix_bytes, "Memory of cached user prefixes."),
        # What Kubernetes' inference gateways schedule by, under the names that they read.
        "vllm:num_requests_waiting": (state.queued, "As gplan_queued_requests."),
        "vllm:num_requests_running": (state.active, "As gplan_active_slots."),
        "vllm:kv_cache_usage_perc": (
            share,
            "Share of the slots' keys and values that requests hold; 1 is all.",
        ),
    }
    for name, (value, text) in gauges.items():
        yield core.GaugeMetricFamily(name, text, value)
    if state.replicas:
        up = core.GaugeMetricFamily(
            "gplan_replica_up", "Whether a replica works.", labels=["replica"]
        )
        yield _labelled(up, {name: int(works) for name, works in state.replicas.items()})
    counters = {
        "gplan_passes": (state.passes, "Passes over the weights, prefills included."),
        "gplan_prefix_hits": (state.prefix_hits, "Requests that found a cached user prefix."),
        "gplan_prefix_misses": (state.prefix_misses, "Requests that found none."),
        "gplan_compilations": (state.compilations, "Programs compiled; constant once ready."),
    }
    for name, (count, text) in counters.items():
        yield core.CounterMetricFamily(name, text, count)
    text = "The engine's requests by how they ended."
    ended = core.CounterMetricFamily("gplan_engine_requests", text, labels=["ended"])
    yield _labelled(ended, {end: getattr(state, end) for end in ENDS})
    # Rows decoded together as a histogram, one observation a pass.
    rows = state.rows_of_passes
    below = {str(float(edge)): sum(n for size, n in rows.items() if size <= edge) for edge in ROWS}
    buckets = [*below.items(), ("+Inf", sum(rows.values()))]
    total = sum(size * count for size, count in rows.items())
    text = "Rows decoded together in a pass."
    yield core.HistogramMetricFamily("gplan_batch_rows", text, buckets, total)


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
