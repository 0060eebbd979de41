"""W3C trace context, spans of a request, and the gauges that gateways read."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from apps import client_of, make_app
from fake_engine import FakeEngine
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client.parser import text_string_to_metric_families

from gplan_jax.serving.http.telemetry import RequestTrace

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADER = f"00-{TRACE}-{SPAN}-01"
BODY = {"context": {"trigger_1": "加油"}}
PARTS = st.one_of(
    st.text("0123456789abcdefABCDEFg-", max_size=40), st.sampled_from([TRACE, SPAN, "00", "01", ""])
)


def read_traceparent(header: str) -> tuple[str, str, bool] | None:
    """Trace, span and whether it is sampled, by the specification; None where it is malformed."""
    hexadecimal = (
        "(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
    )
    found = re.fullmatch(rf"{hexadecimal}(-.*)?", header.strip())
    if found is None or (found[1] == "00" and found[5]):
        return None
    return found[2], found[3], bool(int(found[4], 16) & 1)


@given(st.one_of(st.lists(PARTS, max_size=6).map("-".join), st.text(max_size=60)))
def test_a_trace_goes_on_where_the_header_is_one_by_the_specification(header: str) -> None:
    given, trace = read_traceparent(header), RequestTrace(header, None)
    found = read_traceparent(trace.header)
    assert found is not None and found[0] == trace.trace_id
    if given is None:
        assert trace.trace_id not in header
    else:
        assert (found[0], found[2]) == (given[0], given[2]) and found[1] != given[1]


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_a_header_that_opentelemetry_writes_is_read(trace: int, span: int, sampled: bool) -> None:
    told: dict[str, str] = {}
    given = SpanContext(trace, span, is_remote=False, trace_flags=TraceFlags(int(sampled)))
    TraceContextTextMapPropagator().inject(told, set_span_in_context(NonRecordingSpan(given)))
    assert read_traceparent(told["traceparent"]) == (f"{trace:032x}", f"{span:016x}", sampled)
    found = read_traceparent(RequestTrace(told["traceparent"], None).header)
    assert found is not None and (found[0], found[2]) == (f"{trace:032x}", sampled)


def ask(headers: dict[str, str], **options: Any) -> Any:
    async def run() -> Any:
        async with client_of(make_app(FakeEngine(), **options)) as client:
            return await client.post("/v1/plan", json=BODY, headers=headers)

    return asyncio.run(run())


def test_an_answer_goes_on_with_the_callers_trace_in_a_span_of_its_own() -> None:
    answer = ask({"traceparent": HEADER})
    found = read_traceparent(answer.headers["traceparent"])
    assert found is not None and (found[0], found[2]) == (TRACE, True) and found[1] != SPAN


@pytest.mark.parametrize("header", ["nonsense", HEADER.upper(), f"00-{'0' * 32}-{SPAN}-01", "é"])
def test_a_malformed_header_starts_another_trace_and_is_answered(header: str) -> None:
    answer = ask({"traceparent": header.encode("latin-1")})  # type: ignore[dict-item]
    found = read_traceparent(answer.headers["traceparent"])
    assert answer.status_code == 200 and found is not None and found[0] != TRACE


def test_without_a_header_and_without_a_tracer_there_is_no_trace() -> None:
    assert "traceparent" not in ask({}).headers


def spans_of(headers: dict[str, str]) -> tuple[ReadableSpan, ...]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    ask(headers, tracer=provider.get_tracer("test"))
    return exporter.get_finished_spans()


def test_spans_of_a_request_lie_in_its_trace_one_after_another() -> None:
    spans = spans_of({"traceparent": HEADER})
    *parts, whole = spans
    assert [span.name for span in spans] == [
        "queue", "prefill", "decode pass", "decode pass", "POST /v1/plan",
    ]  # fmt: skip
    assert whole.parent is not None and f"{whole.parent.span_id:016x}" == SPAN
    assert {f"{span.context.trace_id:032x}" for span in spans} == {TRACE}
    assert all(part.parent == whole.context for part in parts)
    times = [time for part in parts for time in (part.start_time or 0, part.end_time or 0)]
    assert times == sorted(times)
    assert (whole.start_time or 0) <= times[0] and times[-1] <= (whole.end_time or 0)


def test_spans_hold_no_text_of_the_user() -> None:
    for span in spans_of({}):
        assert not re.search("[一-鿿]", span.to_json(indent=None))


def test_gateways_find_their_gauges() -> None:
    async def run() -> str:
        async with client_of(make_app(FakeEngine())) as client:
            return (await client.get("/metrics")).text

    families = {f.name: f for f in text_string_to_metric_families(asyncio.run(run()))}
    for ours, theirs in (
        ("gplan_queued_requests", "vllm:num_requests_waiting"),
        ("gplan_active_slots", "vllm:num_requests_running"),
    ):
        assert families[theirs].type == "gauge"
        assert families[theirs].samples[0].value == families[ours].samples[0].value
    assert 0 <= families["vllm:kv_cache_usage_perc"].samples[0].value <= 1
