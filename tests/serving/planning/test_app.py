"""The app's answers and refusals, called without a socket."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx2
import pytest
from apps import client_of, make_app
from fake_engine import PLAN, TEXT, FakeEngine
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from gplan_jax.foundation.buckets import Experiment
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import COLUMNS, facts_of
from gplan_jax.gsisr.row_form import public_form
from gplan_jax.inference.engine.requests import BadOption, NotFinite, Overloaded, PlanRequest
from gplan_jax.serving.http.bodies import SHARED_PAGE_FILES
from gplan_jax.serving.planning.app import PAGE, PAGE_FILES
from gplan_jax.serving.planning.schemas import MAX_CONTEXTS, MAX_VALUE_CHARS

CONTEXT = {"id": "7", "currenttime": "2026-05-04 18:16:38", "trigger_1": "加油"}
JSON = {"Content-Type": "application/json"}
Client = httpx2.AsyncClient


def ask(engine: FakeEngine, calls: Callable[[Client], Awaitable[Any]], **settings: Any) -> Any:
    """Runs ``calls`` with a client of an app around ``engine``; returns what they return."""

    async def run() -> Any:
        async with client_of(make_app(engine, **settings)) as client:
            return await calls(client)

    try:
        return asyncio.run(run())
    finally:
        engine.close()


def post(body: Any, *, path: str = "/v1/plan", headers: dict[str, Any] | None = None) -> Any:
    """A call that posts ``body``, bytes as they are and anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda client: client.post(path, content=content, headers=JSON | (headers or {}))


def metrics_of(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Sample name and labels -> value."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_schema_has_the_columns_of_a_sample_but_its_label() -> None:
    assert tuple(public_form().columns) == COLUMNS


def test_a_plan_with_its_verdicts_and_costs() -> None:
    engine = FakeEngine(delay_s=0.02)
    body = {"context": CONTEXT, "deadline_ms": 900, "temperature": 0.5, "seed": 3}
    answer = ask(engine, post(body, headers={"X-Request-Id": "abc-1"}), model="tiny")
    assert answer.status_code == 200
    assert answer.headers["X-Request-Id"] == "abc-1"
    found = answer.json()
    timings = found.pop("timings_ms")
    assert found == {
        "id": "abc-1",
        "model": "tiny",
        "plan": json.loads(PLAN),
        "text": TEXT,
        "latent_valid": True,
        "passed": True,
        "violations": [],
        "usage": {
            "prompt_tokens": 300,
            "cached_tokens": 200,
            "response_tokens": 40,
            "passes": 5,
            "drafted_tokens": 30,
            "accepted_tokens": 20,
        },
    }
    assert timings["total"] >= timings["prefill"] + timings["decode"] >= 20
    [request] = engine.requests
    assert (request.deadline_s, request.temperature, request.seed) == (0.9, 0.5, 3)
    assert {k: v for k, v in request.sample.to_dict().items() if v} == CONTEXT


def test_the_best_plans_with_their_probabilities() -> None:
    engine = FakeEngine()
    found = ask(engine, post({"context": CONTEXT, "best": 2})).json()
    assert found["plan"] == json.loads(PLAN) and engine.requests[0].best == 2
    assert found["best"] == {
        "plans": [
            {"plan": json.loads(PLAN), "text": TEXT, "log_probability": log}
            for log in (-0.693147, -1.386294)
        ],
        "exact": False,
        "first_intents": [{"intent": {"工具名称": "tool_8"}, "probability": 0.75}],
    }


def test_feedback_goes_to_the_engine_as_it_is() -> None:
    engine = FakeEngine()
    feedback = {
        "accepted": [{"工具名称": "tool_8"}],
        "dismissed": [{"工具名称": "tool_7", "tag": "美食"}],
        "shown": [{"工具名称": "tool_8"}, {"工具名称": "tool_7", "tag": "美食"}],
    }
    assert ask(engine, post({"context": CONTEXT} | feedback)).status_code == 200
    [request] = engine.requests
    assert {name: [*getattr(request, name)] for name in feedback} == feedback


def test_an_option_that_the_engine_can_t_honour_is_named() -> None:
    def refuse(request: PlanRequest) -> None:
        raise BadOption("temperature", "is for draws.")

    engine = FakeEngine()
    engine.refuse = refuse
    answer = ask(engine, post({"context": CONTEXT, "best": 2, "temperature": 1}))
    error = {
        "code": "bad_request",
        "message": "temperature is for draws.",
        "column": "temperature",
    }
    assert (answer.status_code, answer.json()["error"]) == (422, error)


def test_a_plan_that_breaks_rules_is_answered_with_what_it_breaks() -> None:
    engine = FakeEngine(respond=lambda _: '[{"工具名称":"tool_8"},{"工具名称":"tool_99"}]')
    found = ask(engine, post({"context": CONTEXT})).json()
    assert not found["passed"] and found["latent_valid"] is False
    assert {v["code"] for v in found["violations"]} == {"too_short", "unknown_tool"}
    assert found["plan"][1] == {"工具名称": "tool_99"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\ufffd",
        r'[{"工具名称":"\ud800","\udfff":"\u0000"}]',
        '[{"工具名称":"tool_8","tag":' + "[" * 300 + "]" * 300 + "}]",
        '[{"工具名称":1e999,"tag":NaN}]',
        "<THOUGHT>" * 50,
        "[" * 500,
    ],
)
def test_whatever_a_model_writes_is_answered(text: str) -> None:
    answer = ask(FakeEngine(respond=lambda _: text), post({"context": {}}))
    assert answer.status_code == 200
    assert answer.json()["text"] == text and not answer.json()["passed"]


def test_several_contexts_are_answered_in_order_each_for_itself() -> None:
    def respond(request: PlanRequest) -> str:
        if request.sample.id == "1":
            raise GplanError("currenttime is empty; write the time of the request in it.")
        return request.sample.id

    body = {"contexts": [{"id": str(number)} for number in range(9)]}
    engine = FakeEngine(delay_s=0.001, slots=2, queue=0, respond=respond)
    results = ask(engine, post(body, path="/v1/plans")).json()["results"]
    assert results.pop(1)["error"] == {
        "code": "bad_context",
        "message": "currenttime is empty; write the time of the request in it.",
        "column": "currenttime",
    }
    assert [result["text"] for result in results] == ["0", *"2345678"]
    assert len({result["id"] for result in results}) == 8


def nested(depth: int) -> bytes:
    return b'{"context":' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    ("body", "status", "code", "named"),
    [
        (b"", 400, "bad_json", "not JSON"),
        (b"{", 400, "bad_json", "character 1"),
        (b'{"context": {"id": "\xff"}}', 400, "bad_json", "byte 20"),
        (b'{"context": {}, "seed": NaN}', 400, "bad_json", "NaN"),
        (b'{"context": {}, "context": {}}', 400, "bad_json", "gives context twice"),
        (nested(100_000), 400, "bad_json", "deeply"),
        (nested(100), 422, "bad_context", "context must be an object"),
        (b'{"context": {}, "seed": ' + b"9" * 5000 + b"}", 400, "bad_json", "digits"),
        (b'{"context": {}, "seed": ' + b"9" * 500 + b"}", 422, "bad_request", "seed"),
        (b'{"context": {}, "seed": -1}', 422, "bad_request", "seed"),
        (b'{"context": {}, "seed": true}', 422, "bad_request", "seed"),
        (b'{"context": {}, "best": -1}', 422, "bad_request", "best"),
        (b'{"context": {}, "best": 21}', 422, "bad_request", "best"),
        (b'{"context": {}, "best": 2.5}', 422, "bad_request", "best"),
        (b'{"context": {}, "accepted": {}}', 422, "bad_request", "accepted"),
        (b'{"context": {}, "accepted": [[]]}', 422, "bad_request", "accepted.0"),
        (b'{"context": {}, "dismissed": [{"a": 1}]}', 422, "bad_request", "dismissed.0.a"),
        (b'{"context": {}, "temperature": 1e999}', 400, "bad_json", "1e999"),
        (b'{"context": {}, "temperature": "1"}', 422, "bad_request", "temperature"),
        (b'{"context": {}, "deadline_ms": 0}', 422, "bad_request", "deadline_ms"),
        (b'{"context": {}, "deadline_ms": 60001}', 422, "bad_request", "at most 60000"),
        (b"[]", 422, "bad_request", "the body must be an object"),
        (b"null", 422, "bad_request", "the body must be an object"),
        (b"{}", 422, "bad_context", "context is missing"),
        (b'{"contxt": {}}', 422, "bad_context", "contxt is unknown; did you mean context"),
        (b'{"context": {"curenttime": ""}}', 422, "bad_context", "did you mean currenttime"),
        (b'{"context": {"label": ""}}', 422, "bad_context", "label is unknown"),
        (b'{"context": {"id": 7}}', 422, "bad_context", "context.id must be text"),
        (b'{"context": {"id": null}}', 422, "bad_context", "context.id must be text"),
        (rb'{"context": {"id": "\ud800"}}', 400, "bad_json", "context holds half a character"),
        (rb'{"context": {"id": "\u0000"}}', 422, "bad_context", "context.id may not hold"),
        (rb'{"context": {"\ud800": ""}}', 400, "bad_json", "context holds half a character"),
        (rb'{"context": {"\u0000": ""}}', 422, "bad_context", r"'\x00' is unknown"),
    ],
)  # fmt: skip
def test_a_faulty_body_is_refused_by_what_is_wrong_with_it(
    body: bytes, status: int, code: str, named: str
) -> None:
    engine = FakeEngine()
    answer = ask(engine, post(body))
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == code and named in error["message"]
    assert engine.requests == []
    if named.split(".")[0] in ("seed", "best", "temperature", "accepted", "dismissed"):
        assert error["column"] == named


def test_a_fault_of_one_column_names_it_for_programs_too() -> None:
    long = "长" * (MAX_VALUE_CHARS + 1)
    for context in ({"current_tag": 3}, {"current_tag": long}):
        answer = ask(FakeEngine(), post({"context": context}))
        assert answer.json()["error"]["column"] == "current_tag"
    listed = {"contexts": [{}, {"current_tag": 3}]}
    answer = ask(FakeEngine(), post(listed, path="/v1/plans"))
    assert answer.json()["error"]["column"] == "current_tag"
    assert "contexts.1.current_tag" in answer.json()["error"]["message"]


def test_a_value_of_the_greatest_length_is_taken() -> None:
    answer = ask(FakeEngine(), post({"context": {"id": "长" * MAX_VALUE_CHARS}}))
    assert answer.status_code == 200


@pytest.mark.parametrize("count", [0, MAX_CONTEXTS + 1])
def test_the_number_of_contexts_is_bounded(count: int) -> None:
    answer = ask(FakeEngine(), post({"contexts": [{}] * count}, path="/v1/plans"))
    assert answer.status_code == 422 and "contexts" in answer.json()["error"]["message"]


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("context"), inner),
))  # fmt: skip
def test_whatever_is_posted_gets_an_answer_of_a_known_form(value: Any) -> None:
    answer = ask(FakeEngine(), post(value), examples=0)
    assert answer.status_code in (200, 400, 422)
    assert answer.json().keys() in ({"error"}, FULL_ANSWER)


FULL_ANSWER = {
    "id", "model", "plan", "text", "latent_valid", "passed", "violations", "timings_ms", "usage",
}  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Type": "text/plain"}, "not_json"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "not_json"),
        ({"Content-Encoding": "gzip"}, "encoded_body"),
    ],
)
def test_a_body_that_is_not_declared_as_plain_json_is_refused(
    headers: dict[str, str], code: str
) -> None:
    answer = ask(FakeEngine(), post({"context": {}}, headers=headers))
    assert answer.status_code == 415 and answer.json()["error"]["code"] == code


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    engine = FakeEngine(delay_s=30, slots=1, queue=1)

    async def calls(client: Client) -> Any:
        waiting = [asyncio.create_task(post({"context": {}})(client)) for _ in range(2)]
        while engine.snapshot().queued < 1:
            await asyncio.sleep(0.001)
        refused = await post({"context": {}})(client)
        for task in waiting:
            task.cancel()
        return refused, (await client.get("/metrics")).text

    refused, metrics = ask(engine, calls)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "overloaded"
    assert refused.headers["Retry-After"] == "1"
    counts = metrics_of(metrics)
    assert counts["gplan_requests_total", (("outcome", "overloaded"),)] == 1


def test_the_engine_says_when_to_come_back() -> None:
    def refuse(request: PlanRequest) -> None:
        raise Overloaded("full", retry_after_s=6.2)

    engine = FakeEngine()
    engine.refuse = refuse
    answer = ask(engine, post({"context": {}}))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")


def test_an_engine_that_has_failed_is_no_longer_well() -> None:
    engine = FakeEngine()

    async def calls(client: Client) -> Any:
        before = await client.get("/healthz")
        engine.ready = False
        return before, await client.get("/healthz"), await post({"context": {}})(client)

    before, after, refused = ask(engine, calls)
    assert before.status_code == 200
    for answer in (after, refused):
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "failed"


def test_a_missed_deadline_is_504_and_frees_the_slot() -> None:
    engine = FakeEngine(delay_s=30, slots=1)

    async def calls(client: Client) -> Any:
        return await post({"context": {}, "deadline_ms": 30})(client), engine.snapshot()

    answer, state = ask(engine, calls)
    assert answer.status_code == 504 and answer.json()["error"]["code"] == "deadline"
    assert (state.active, state.expired) == (0, 1)


def test_logits_that_are_not_finite_are_500_and_counted() -> None:
    def respond(request: PlanRequest) -> str:
        raise NotFinite

    async def calls(client: Client) -> Any:
        return await post({"context": {}})(client), await client.get("/metrics")

    answer, metrics = ask(FakeEngine(respond=respond), calls)
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "not_finite"
    counts = metrics_of(metrics.text)
    assert counts["gplan_requests_total", (("outcome", "not_finite"),)] == 1


def test_a_deadline_holds_even_where_the_engine_forgets_it() -> None:
    engine = FakeEngine(delay_s=30, slots=1)
    submit = engine.submit
    engine.submit = lambda request: submit(PlanRequest(request.sample))  # type: ignore[method-assign]
    assert ask(engine, post({"context": {}, "deadline_ms": 30})).status_code == 504


def test_an_engine_that_is_closed_under_a_request_says_draining() -> None:
    engine = FakeEngine(delay_s=30)

    async def calls(client: Client) -> Any:
        task = asyncio.create_task(post({"context": {}})(client))
        while not engine.snapshot().active:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(engine.close)
        return await task, await post({"context": {}})(client)

    for answer in ask(engine, calls):
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "draining"


def test_a_context_that_no_prompt_can_be_made_of_names_its_column() -> None:
    def refuse(request: PlanRequest) -> None:
        facts_of(request.sample)

    engine = FakeEngine()
    engine.refuse = refuse
    answer = ask(engine, post({"context": {"currenttime": "now", "id": "3"}}))
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["column"] == "currenttime" and "YYYY-MM-DD" in error["message"]


def test_an_unforeseen_fault_is_a_500_with_an_id_and_nothing_else(log_lines: list[str]) -> None:
    def fail(request: PlanRequest) -> str:
        raise ZeroDivisionError("秘密")

    answer = ask(FakeEngine(respond=fail), post({"context": {}}, headers={"X-Request-Id": "q1"}))
    assert answer.status_code == 500
    assert answer.headers["X-Request-Id"] == "q1"
    message = answer.json()["error"]["message"]
    assert "q1" in message and "秘密" not in message and "Zero" not in message
    [fault] = [json.loads(line) for line in log_lines if '"fault"' in line]
    assert (fault["error"], fault["request_id"]) == ("ZeroDivisionError", "q1")
    assert any(place.startswith("test_app.py:") for place in fault["at"])
    assert "秘密" not in "".join(log_lines)


def test_probes_while_the_model_loads_and_once_it_is_there() -> None:
    engine = FakeEngine(ready=False)

    async def calls(client: Client) -> Any:
        before = [await client.get("/healthz"), await client.get("/readyz")]
        before.append(await post({"context": {}})(client))
        engine.ready = True
        return [*before, await client.get("/readyz")]

    health, starting, refused, ready = ask(engine, calls)
    assert (health.status_code, ready.status_code) == (200, 200)
    for answer in (starting, refused):
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "starting"
        assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("s3cret", 401),
        ("Bearer s3cret", 200),
        ("Bearer é", 401),
    ],
)
def test_with_a_key_only_those_who_send_it_get_plans(given: str | None, status: int) -> None:
    headers = {} if given is None else {"Authorization": given.encode()}

    async def calls(client: Client) -> Any:
        paths = ("/v1/plan", "/v1/plans", "/v1/examples", "/v1/nothing")
        kept = [await client.get(path, headers=headers) for path in paths]
        open_ = [await client.get(p) for p in ("/", "/healthz", "/readyz", "/metrics")]
        return kept, open_, await post({"context": {}}, headers=headers)(client)

    kept, open_, plan = ask(FakeEngine(), calls, api_key=SecretStr("s3cret"))
    assert plan.status_code == status
    assert [a.status_code for a in kept] == ([401] * 4 if status == 401 else [405, 405, 200, 404])
    assert [a.status_code for a in open_] == [200] * 4
    if status == 401:
        assert plan.headers["WWW-Authenticate"] == "Bearer"
        assert plan.json()["error"]["code"] == "unauthorized"


@pytest.mark.parametrize("given", ["", "a" * 65, "a b", "ü", "<script>"])
def test_a_request_id_that_is_no_plain_word_is_replaced(given: str) -> None:
    answer = ask(
        FakeEngine(), lambda c: c.get("/healthz", headers={"X-Request-Id": given.encode()})
    )
    assert answer.headers["X-Request-Id"] != given and len(answer.headers["X-Request-Id"]) == 16


def test_the_metrics_add_up() -> None:
    engine = FakeEngine()

    async def calls(client: Client) -> str:
        for _ in range(3):
            await post({"context": CONTEXT})(client)
        await post({"context": {"id": 1}})(client)
        await client.get("/secret-of-a-user")
        return (await client.get("/metrics")).text

    counts = metrics_of(ask(engine, calls))

    def count(name: str, **labels: str) -> float:
        return counts[f"gplan_{name}", tuple(sorted(labels.items()))]

    assert count("requests_total", outcome="ok") == 3
    assert count("requests_total", outcome="bad_context") == 1
    assert count("http_requests_total", path="/v1/plan", status="200") == 3
    assert count("http_requests_total", path="/v1/plan", status="422") == 1
    assert count("http_requests_total", path="other", status="404") == 1
    assert count("plans_total", filter="passed") == 3
    assert count("prompt_tokens_total") == 900
    assert count("drafted_tokens_total") == 90
    assert count("accepted_tokens_total") == 60
    assert count("plan_passes_count") == 3 and count("plan_passes_sum") == 15
    assert count("plan_passes_bucket", le="4.0") == 0
    assert count("plan_passes_bucket", le="5.0") == 3
    for histogram in ("queue", "prefill", "decode", "request"):
        assert count(f"{histogram}_seconds_count") == 3
    assert count("ready") == 1 and count("slots") == 4 and count("active_slots") == 0
    assert count("engine_requests_total", ended="answered") == 3
    # The fake engine says 3 passes of one row and 1 of two for every answer.
    assert count("batch_rows_bucket", le="1.0") == 9
    assert count("batch_rows_count") == 12 and count("batch_rows_sum") == 15
    assert count("compilations_total") == 7
    assert not any("secret" in str(key) for key in counts)


def test_two_apps_count_apart() -> None:
    assert ask(FakeEngine(), post({"context": {}})).status_code == 200
    text = ask(FakeEngine(), lambda client: client.get("/metrics")).text
    assert ("gplan_requests_total", (("outcome", "ok"),)) not in metrics_of(text)


def test_the_log_has_what_happened_but_nothing_a_user_wrote(log_lines: list[str]) -> None:
    async def calls(client: Client) -> None:
        await post({"context": {"id": "秘密", "current_tag": "秘密"}})(client)
        await post({"context": {"秘密": "秘密", "id": 1}})(client)
        await post({"contexts": [{"id": "秘密"}]}, path="/v1/plans")(client)
        await client.get("/秘密?q=秘密")

    ask(FakeEngine(respond=lambda _: "秘密"), calls)
    lines = [json.loads(line) for line in log_lines]
    assert "秘密" not in "".join(log_lines) and "\\u79d8" not in "".join(log_lines)
    assert [(line["path"], line["status"]) for line in lines] == [
        ("/v1/plan", 200),
        ("/v1/plan", 422),
        ("/v1/plans", 200),
        ("other", 404),
    ]
    assert lines[0]["usage"]["passes"] == 5 and lines[0]["timings_ms"]["total"] > 0
    assert lines[1]["code"] == "bad_context" and lines[2]["contexts"] == 1


def test_contexts_are_logged_where_that_is_asked_for(log_lines: list[str]) -> None:
    ask(FakeEngine(), post({"context": {"id": "77"}}), log_contexts=True)
    [line] = [json.loads(line) for line in log_lines]
    [context] = line["columns"].values()
    assert context["id"] == "77"


def test_the_description_has_the_bodies_and_every_reference_leads_somewhere() -> None:
    document = ask(FakeEngine(), lambda client: client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    body = document["paths"]["/v1/plan"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/PlanBody"}
    assert set(schemas["Context"]["properties"]) == set(COLUMNS)
    references = {part.split('"')[0] for part in json.dumps(document).split('"$ref": "')[1:]}
    assert references <= {f"#/components/schemas/{name}" for name in schemas}
    assert ask(FakeEngine(), post(body["example"])).status_code == 200


def test_examples_are_contexts_that_the_server_takes() -> None:
    async def calls(client: Client) -> Any:
        found = (await client.get("/v1/examples")).json()["examples"]
        answers = [await post({"context": e["context"]})(client) for e in found]
        return found, [answer.status_code for answer in answers]

    found, statuses = ask(FakeEngine(), calls, examples=4)
    assert statuses == [200] * 4
    assert len({example["context"]["trigger_1"] for example in found}) == 4


def test_a_wrong_path_or_method_has_the_form_of_all_errors() -> None:
    async def calls(client: Client) -> Any:
        return await client.get("/nothing"), await client.get("/v1/plan")

    missing, method = ask(FakeEngine(), calls)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (method.status_code, method.json()["error"]["code"]) == (405, "method_not_allowed")
    assert "POST" in method.headers["Allow"]


def test_the_page_is_whole_and_loads_nothing_from_elsewhere() -> None:
    async def calls(client: Client) -> Any:
        return {path: await client.get(path) for path in PAGE_FILES}

    assert set(PAGE_FILES.values()) == {*PAGE.iterdir(), *SHARED_PAGE_FILES}
    for path, answer in ask(FakeEngine(), calls).items():
        assert answer.status_code == 200, path
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.text == PAGE_FILES[path].read_text(encoding="utf-8")
        assert "://" not in answer.text
        assert "style=" not in answer.text and "<script>" not in answer.text


@pytest.fixture
def exposures() -> Iterator[list[dict[str, Any]]]:
    """The exposure lines that the server's log gets."""
    lines: list[dict[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = json.loads(record.getMessage())
            if line["event"] == "exposure":
                lines.append(line)

    handler, server = Keep(), logging.getLogger("gplan.server")
    server.addHandler(handler)
    level = server.level
    server.setLevel(logging.INFO)
    yield lines
    server.removeHandler(handler)
    server.setLevel(level)


EXPERIMENT = Experiment(name="homepage", arms={"ctr": 0.4, "gplan": 0.4}, control="ctr")


def test_an_experiment_names_the_arm_and_logs_the_exposure(
    exposures: list[dict[str, Any]],
) -> None:
    users = [str(number) for number in range(12)]
    body = {"contexts": [CONTEXT | {"id": user} for user in users]}
    call = post(body, path="/v1/plans", headers={"X-Request-Id": "r"})
    results = ask(FakeEngine(), call, experiment=EXPERIMENT).json()["results"]
    arms = [EXPERIMENT.assign(user) for user in users]
    assert {"ctr", "gplan", None} == set(arms)
    assert [result.get("experiment") for result in results] == [
        {"name": "homepage", "arm": arm} if arm else None for arm in arms
    ]
    assert {line["request_id"]: (line["arm"], line["user"]) for line in exposures} == {
        f"r-{user}": (arm, EXPERIMENT.pseudonym(user))
        for user, arm in zip(users, arms, strict=True)
        if arm
    }
    assert all(line["experiment"] == "homepage" for line in exposures)


@pytest.mark.parametrize("experiment", [None, EXPERIMENT])
def test_a_request_without_a_user_is_planned_for_outside_the_experiment(
    experiment: Experiment | None, exposures: list[dict[str, Any]]
) -> None:
    body = {"context": CONTEXT | {"id": ""}}
    answer = ask(FakeEngine(), post(body), experiment=experiment)
    assert answer.status_code == 200
    assert "experiment" not in answer.json() and not exposures


def test_a_request_that_fails_exposes_nobody(exposures: list[dict[str, Any]]) -> None:
    engine = FakeEngine()

    def refuse(request: PlanRequest) -> None:
        raise Overloaded("full", retry_after_s=1.0)

    engine.refuse = refuse
    answer = ask(engine, post({"context": CONTEXT | {"id": "1"}}), experiment=EXPERIMENT)
    assert answer.status_code == 503 and not exposures
