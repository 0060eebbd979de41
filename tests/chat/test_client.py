"""The client against scripted servers: real sockets, each server a process of its own."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from scripted_server import Script, delivery_fault

from gplan_jax.chat import (
    BudgetSpent,
    ChatClient,
    ChatConfig,
    ChatReply,
    ChatRequest,
    Message,
    RequestFailed,
    ServerUnavailable,
    request_key,
)
from gplan_jax.chat import client as client_module
from gplan_jax.chat.cache import Cache
from gplan_jax.chat.client import PROBES
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.streams import map_ordered
from tests.chat.servers import Server, scripted

SCHEMA = {"type": "object", "required": ["plan"], "properties": {"plan": {"type": "string"}}}
KEY = "planted-key-3f9c"


def request(text: str, schema: dict[str, Any] | None = SCHEMA) -> ChatRequest:
    return ChatRequest((Message("system", "Answer in JSON."), Message("user", text)), schema)


def ask_all(
    config: ChatConfig, cache: Path, texts: list[str], *, at_once: int = 1000
) -> tuple[list[Any], ChatClient]:
    """Asks all; the answers and the errors in order, and the client (closed)."""
    client = ChatClient(config, cache)

    async def main() -> list[Any]:
        asked = [client.ask(request(text)) for text in texts]
        ended: list[Any] = []
        try:
            while waiting := asked[len(ended) : len(ended) + at_once]:
                ended += await asyncio.gather(*waiting, return_exceptions=True)
            return ended
        finally:
            await client.close()

    return asyncio.run(main()), client


def numbers(count: int) -> list[str]:
    return [f"row {number}" for number in range(count)]


def test_an_answer_is_paid_for_once_and_then_comes_from_the_cache(tmp_path: Path) -> None:
    with scripted(tmp_path) as server:
        config = server.config(prompt_price=2.0, completion_price=6.0)
        first, _ = ask_all(config, tmp_path / "cache.sqlite", numbers(5) + numbers(5))
        again, client = ask_all(config, tmp_path / "cache.sqlite", numbers(5))
        log = server.log()
    assert log["requests"] == 5 and set(log["paid"].values()) == {1}
    assert [reply.text for reply in first[:5]] == [reply.text for reply in first[5:]]
    assert [reply.cached for reply in first] == [False] * 5 + [True] * 5
    assert [reply.text for reply in again] == [reply.text for reply in first[:5]]
    assert all(reply.cached for reply in again)
    reply = first[0]
    assert set(json.loads(reply.text)) == {"plan"} and reply.finish_reason == "stop"
    assert reply.key == request_key(config, request("row 0")) in log["paid"]
    assert reply.cost == (reply.prompt_tokens * 2.0 + reply.completion_tokens * 6.0) / 1e6
    assert (reply.model, reply.structured, reply.attempts) == ("scripted", "json_schema", 1)
    ledger = client.ledger
    assert (ledger.requests, ledger.from_cache, ledger.cost) == (0, 5, 0.0)
    assert ledger.tokens_before == log["tokens"]
    assert ledger.spent_before == pytest.approx(sum(reply.cost for reply in first[:5]))


@pytest.mark.parametrize(
    ("fault", "sendings"),
    [
        ({"kind": "error", "status": 500, "times": 2}, 3),
        ({"kind": "error", "status": 502}, 2),
        ({"kind": "error", "status": 503}, 2),
        ({"kind": "throttle", "times": 8}, 9),  # 429s are forgiven beyond the attempts.
        ({"kind": "hang"}, 2),
        ({"kind": "drop"}, 2),
        ({"kind": "cut"}, 2),
        ({"kind": "truncate"}, 2),
        ({"kind": "slow", "seconds": 1.5}, 2),
    ],
)
def test_faults_that_pass_are_waited_out_and_nothing_is_billed_twice(
    tmp_path: Path, fault: dict[str, Any], sendings: int
) -> None:
    with scripted(tmp_path, faults=[{"share": 0.5, **fault}]) as server:
        # Long enough for a busy machine where time-outs are not what is tested.
        timeout_s = 1.0 if fault["kind"] in ("hang", "slow") else 30.0
        config = server.config(attempts=4, timeout_s=timeout_s)
        replies, client = ask_all(config, tmp_path / "cache.sqlite", numbers(12))
        log = server.log()
    assert all(isinstance(reply, ChatReply) for reply in replies)
    assert set(log["asked"].values()) == {1, sendings}
    assert set(log["paid"].values()) == {1} and len(log["paid"]) == 12
    assert client.ledger.retries == log["requests"] - 12
    assert {reply.attempts for reply in replies} == {1, sendings}
    cut = fault["kind"] in ("hang", "drop", "cut", "slow")
    assert client.ledger.unanswered == (client.ledger.retries if cut else 0)


@pytest.mark.parametrize(
    ("header", "pause_s"), [({"retry_after": "1"}, 1.0), ({"retry_after_ms": 300}, 0.3)]
)
def test_nothing_is_sent_while_the_server_asks_for_a_pause(
    tmp_path: Path, header: dict[str, Any], pause_s: float
) -> None:
    fault = {"kind": "throttle", "match": "row 7", **header}
    with scripted(tmp_path, latency_s=0.01, faults=[fault]) as server:
        config = server.config(concurrency=4)
        replies, _ = ask_all(config, tmp_path / "cache.sqlite", numbers(40))
        log = server.log()
    assert all(isinstance(reply, ChatReply) for reply in replies)
    refused_at = next(at for at, _, what in log["timeline"] if what == "429")
    asked = [at for at, _, what in log["timeline"] if what == "asked"]
    # What had been sent when the 429 was on its way may still arrive.
    assert not [at for at in asked if refused_at + 0.3 * pause_s < at < refused_at + pause_s]
    assert len([at for at in asked if at >= refused_at + pause_s]) > 25


def test_it_sends_no_more_at_once_than_told_and_fewer_where_the_server_takes_fewer(
    tmp_path: Path,
) -> None:
    with scripted(tmp_path, latency_s=0.005) as server:
        ask_all(server.config(concurrency=7), tmp_path / "a.sqlite", numbers(40))
        assert server.log()["most_at_once"] == 7
    with scripted(tmp_path, latency_s=0.005, at_once=4) as server:
        config = server.config(concurrency=32)
        replies, _ = ask_all(config, tmp_path / "b.sqlite", numbers(200))
        log = server.log()
    assert all(isinstance(reply, ChatReply) for reply in replies)
    # Without adapting, 28 of each 32 would be refused.
    assert log["statuses"]["429"] < 200


def test_a_poisoned_request_fails_alone(tmp_path: Path) -> None:
    fault = {"kind": "error", "match": "row 3", "times": None}
    with scripted(tmp_path, faults=[fault]) as server:
        config = server.config(attempts=3)
        replies, client = ask_all(config, tmp_path / "cache.sqlite", numbers(8))
        key = request_key(config, request("row 3"))
        assert server.log()["asked"][key] == 3
        assert isinstance(replies.pop(3), RequestFailed)
        assert all(isinstance(reply, ChatReply) for reply in replies)
        assert client.ledger.failed == 1
        # With everything else in the cache nothing else gets through, but the server answers.
        alone, _ = ask_all(config, tmp_path / "cache.sqlite", numbers(8))
        assert isinstance(alone[3], RequestFailed) and "HTTP 500" in str(alone[3])
        # A failure isn't kept: it is asked again in each run.
        assert server.log()["asked"][key] == 6


def test_a_server_that_answers_nothing_stops_the_run(tmp_path: Path) -> None:
    with scripted(tmp_path, faults=[{"kind": "error", "times": None}]) as server:
        config = server.config(attempts=2, concurrency=3)
        replies, client = ask_all(config, tmp_path / "cache.sqlite", numbers(50), at_once=3)
        log = server.log()
    assert all(isinstance(reply, ServerUnavailable) for reply in replies)
    # Two attempts of each that was under way, and the questions whether anything gets through.
    assert log["requests"] == 3 * 2 + PROBES and client.ledger.requests == 0
    assert "run the same command again" in str(replies[0])
    assert str(tmp_path / "cache.sqlite") in str(replies[0])


@pytest.mark.parametrize("answered", [PROBES - 1, PROBES])
def test_a_server_that_fails_now_and_then_is_still_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answered: int
) -> None:
    names = iter(range(100))
    monkeypatch.setattr(client_module.uuid, "uuid4", lambda: UUID(int=next(names)))
    faults = [
        {"kind": "error", "match": "row 0", "times": None},
        {"kind": "error", "match": "OK?", "times": None, "share": 0.5},
    ]

    def first_answered(seed: int) -> int:
        """The first of the client's questions that this script answers, from 0."""
        script = Script.model_validate_json(json.dumps({"faults": faults, "seed": seed}))
        keys = (f"probe-{UUID(int=number).hex}" for number in range(100))
        return next(n for n, key in enumerate(keys) if not delivery_fault(script, key, "OK?", 0))

    seed = next(seed for seed in range(1000) if first_answered(seed) == answered)
    with scripted(tmp_path, faults=faults, seed=seed) as server:
        config = server.config(attempts=2)
        replies, _ = ask_all(config, tmp_path / "cache.sqlite", ["row 0"])
    expected = RequestFailed if answered < PROBES else ServerUnavailable
    assert isinstance(replies[0], expected)


def test_without_a_server_the_run_stops(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        config = ChatConfig(base_url=url, model="m", attempts=2, backoff_s=0.001)
        replies, _ = ask_all(config, tmp_path / "cache.sqlite", ["x"])
    assert isinstance(replies[0], ServerUnavailable) and "no connection" in str(replies[0])


def test_a_request_too_large_fails_alone_a_config_that_is_refused_stops_the_run(
    tmp_path: Path,
) -> None:
    long = {"kind": "error", "status": 400, "match": "row 0", "message": "maximum context length"}
    with scripted(tmp_path, faults=[{"times": None, **long}]) as server:
        replies, _ = ask_all(server.config(), tmp_path / "a.sqlite", numbers(3), at_once=1)
    assert isinstance(replies[0], RequestFailed) and "maximum context length" in str(replies[0])
    assert all(isinstance(reply, ChatReply) for reply in replies[1:])
    all_ = {"kind": "error", "status": 400, "times": None, "message": "temperature must be 1"}
    with scripted(tmp_path, faults=[all_]) as server:
        replies, _ = ask_all(server.config(), tmp_path / "b.sqlite", numbers(3), at_once=1)
        assert server.log()["requests"] == 2
    assert all(isinstance(reply, ServerUnavailable) for reply in replies)
    assert "refuses every request" in str(replies[0]) and "temperature" in str(replies[0])


def test_the_response_format_falls_back_and_is_remembered(tmp_path: Path) -> None:
    def statuses(formats: list[str]) -> tuple[dict[str, int], list[ChatReply]]:
        name = "-".join(["known", *formats])
        with scripted(tmp_path, formats=formats, name=name) as server:
            cache = tmp_path / f"{name}.sqlite"
            replies, _ = ask_all(server.config(), cache, numbers(5), at_once=1)
            return server.log()["statuses"], replies

    counted, strict = statuses(["json_schema", "json_object"])
    assert counted == {"200": 5} and {reply.structured for reply in strict} == {"json_schema"}
    counted, loose = statuses(["json_object"])
    assert counted == {"200": 5, "400": 1} and {reply.structured for reply in loose} == {
        "json_object"
    }
    counted, free = statuses([])
    assert counted == {"200": 5, "400": 2} and {reply.structured for reply in free} == {"none"}
    assert [reply.key for reply in strict] == [reply.key for reply in free]


def test_a_format_that_the_config_insists_on_must_be_known(tmp_path: Path) -> None:
    with scripted(tmp_path, formats=["json_object"]) as server:
        config = server.config(structured="json_schema", concurrency=1)
        replies, _ = ask_all(config, tmp_path / "cache.sqlite", numbers(2))
    assert all(isinstance(reply, ServerUnavailable) for reply in replies)
    assert "structured: auto" in str(replies[0])


def test_cut_and_odd_answers_are_paid_for_and_kept_filtered_ones_are_not(tmp_path: Path) -> None:
    faults = [
        {"kind": "short", "match": "row 0"},
        {"kind": "wrong_schema", "match": "row 1"},
        {"kind": "twice", "match": "row 2"},
        {"kind": "filter", "match": "row 3"},
    ]
    with scripted(tmp_path, faults=faults) as server:
        config = server.config(concurrency=1)
        first, client = ask_all(config, tmp_path / "cache.sqlite", numbers(4))
        again, _ = ask_all(config, tmp_path / "cache.sqlite", numbers(4))
        log = server.log()
    short, odd, twice, filtered = first
    assert short.finish_reason == "length" and odd.text == '{"unexpected": true}'
    assert len(twice.text.splitlines()) == 2 and isinstance(filtered, RequestFailed)
    assert [reply.text for reply in again[:3]] == [reply.text for reply in first[:3]]
    assert log["requests"] == 5  # The filtered one again.
    assert client.ledger.tokens == log["tokens"]


def test_an_old_answer_of_another_model_or_an_error_is_asked_for_anew(tmp_path: Path) -> None:
    """Older versions kept both; their files can still be read."""
    with scripted(tmp_path) as server:
        config = server.config(concurrency=1)
        stale = [request_key(config, request(text)) for text in numbers(3)]
        cache = Cache(tmp_path / "cache.sqlite", "USD")

        async def plant() -> None:
            ends = (("smol", "stop"), ("scripted", "stop"), ("scripted", "error"))
            for key, (model, end) in zip(stale, ends, strict=True):
                await cache.keep(ChatReply("old", end, key, model, 1, 1, False, 1, "none", None))
            await cache.close()

        asyncio.run(plant())
        first, _ = ask_all(config, tmp_path / "cache.sqlite", numbers(3))
        again, _ = ask_all(config, tmp_path / "cache.sqlite", numbers(3))
        log = server.log()
    assert [reply.text == "old" for reply in first] == [False, True, False]
    assert log["requests"] == 2
    assert [reply.text for reply in again] == [reply.text for reply in first]


def test_one_seed_of_a_config_is_another_for_every_row_and_the_same_for_every_run(
    tmp_path: Path,
) -> None:
    (tmp_path / "seeds.py").write_text("def reply(body):\n    return str(body['seed'])\n")
    with scripted(tmp_path, responder=f"{tmp_path}/seeds.py:reply") as server:
        drawn = [
            [reply.text for reply in ask_all(server.config(seed=0), tmp_path / name, numbers(9))[0]]
            for name in ("one", "two")
        ]
        other, _ = ask_all(server.config(seed=1), tmp_path / "one", numbers(1))
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 9 and other[0].text not in drawn[0]


def test_the_budget_is_never_overrun_and_a_raised_one_continues(tmp_path: Path) -> None:
    with scripted(tmp_path, latency_s=0.002, faults=[{"kind": "cut", "share": 0.2}]) as server:

        def run(budget: int | None) -> tuple[list[Any], ChatClient]:
            config = server.config(concurrency=8, max_tokens=20, token_budget=budget)
            return ask_all(config, tmp_path / "cache.sqlite", numbers(60))

        replies, client = run(700)
        answered = [reply for reply in replies if isinstance(reply, ChatReply)]
        stopped = [reply for reply in replies if isinstance(reply, BudgetSpent)]
        assert len(answered) + len(stopped) == 60 and answered and stopped
        # Less than one request's worst case is left over.
        spent = server.log()["tokens"]
        assert 700 - 350 < spent <= 700 and client.ledger.tokens == spent
        assert "token_budget 700" in str(stopped[0]) and "raise the budget" in str(stopped[0])
        replies, client = run(None)
        assert all(isinstance(reply, ChatReply) for reply in replies)
        assert set(server.log()["paid"].values()) == {1}
        assert client.ledger.from_cache == len(answered)
        assert client.ledger.tokens + client.ledger.tokens_before == server.log()["tokens"]
        # The earlier runs count: nothing is left of the first budget.
        more = server.config(token_budget=700)
        assert isinstance(ask_all(more, tmp_path / "cache.sqlite", ["new"])[0][0], BudgetSpent)


def test_a_budget_in_money(tmp_path: Path) -> None:
    with scripted(tmp_path) as server:
        prices = {"prompt_price": 1e6, "completion_price": 2e6, "currency": "EUR"}
        config = server.config(budget=1000.0, max_tokens=10, concurrency=2, **prices)
        replies, client = ask_all(config, tmp_path / "cache.sqlite", numbers(60))
        stopped = [reply for reply in replies if isinstance(reply, BudgetSpent)]
        assert stopped and "EUR" in str(stopped[0])
        assert client.ledger.cost is not None and 500 < client.ledger.cost <= 1000
        other = config.model_copy(update={"currency": "USD"})
        with pytest.raises(GplanError, match="another currency"):
            ChatClient(other, tmp_path / "cache.sqlite")


def test_without_usage_the_cost_is_unknown_and_a_budget_is_refused(tmp_path: Path) -> None:
    with scripted(tmp_path, usage=False) as server:
        config = server.config(prompt_price=1.0, completion_price=1.0)
        replies, client = ask_all(config, tmp_path / "a.sqlite", numbers(2))
        assert [reply.cost for reply in replies] == [None, None]
        assert replies[0].prompt_tokens is None and client.ledger.without_usage == 2
        assert "2 without usage" in client.ledger.note()
        config = server.config(token_budget=10_000, concurrency=1)
        replies, _ = ask_all(config, tmp_path / "b.sqlite", numbers(5))
        assert all("reports no token usage" in str(reply) for reply in replies)
        assert len(server.log()["paid"]) == 2  # The first was paid for before anybody knew,
        kept, _ = ask_all(server.config(), tmp_path / "b.sqlite", numbers(1))
        assert kept[0].cached  # and is kept.


def test_answers_on_the_wire_are_kept_when_the_run_ends(tmp_path: Path) -> None:
    with scripted(tmp_path, latency_s=0.1) as server:
        client = ChatClient(server.config(concurrency=4), tmp_path / "cache.sqlite")

        async def leave_early() -> None:
            asked = [asyncio.create_task(client.ask(request(text))) for text in numbers(10)]
            while server.log()["requests"] < 4:
                await asyncio.sleep(0.005)
            for task in asked:
                task.cancel()
            await client.close()

        asyncio.run(leave_early())
        paid = len(server.log()["paid"])
        assert 4 <= paid < 10
        replies, _ = ask_all(server.config(), tmp_path / "cache.sqlite", numbers(10))
        assert sum(reply.cached for reply in replies) == paid
        assert set(server.log()["asked"].values()) == {1}


def test_one_failure_ends_a_stream_and_what_is_paid_is_kept(tmp_path: Path) -> None:
    denied = {"kind": "error", "status": 403, "match": "row 5", "times": None}
    with scripted(tmp_path, latency_s=0.01, faults=[denied]) as server:
        client = ChatClient(server.config(concurrency=4), tmp_path / "cache.sqlite")
        requests = (request(text) for text in numbers(30))
        stream = map_ordered(client.ask, requests, at_once=4, close=client.close)
        with closing(stream), pytest.raises(ServerUnavailable):
            list(stream)
        paid = len(server.log()["paid"])
        replies, _ = ask_all(server.config(attempts=1), tmp_path / "cache.sqlite", numbers(5))
        assert sum(getattr(reply, "cached", False) for reply in replies) == 5 and paid <= 10


def test_a_long_stream_holds_a_bounded_number_of_answers(tmp_path: Path) -> None:
    with scripted(tmp_path) as server:
        client = ChatClient(server.config(concurrency=2), tmp_path / "cache.sqlite")
        requests = (request(text) for text in numbers(400))
        most = 0
        stream = map_ordered(client.ask, requests, at_once=2, close=client.close)
        with closing(stream):
            for count, _ in enumerate(stream):
                if count % 50 == 0:
                    gc.collect()  # what is only not yet collected is not held
                    held = sum(isinstance(thing, ChatReply) for thing in gc.get_objects())
                    most = max(most, held)
    assert most <= 2 * 16 + 8


def test_proxies_are_not_asked_for_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with scripted(tmp_path) as server:
        replies, _ = ask_all(server.config(), tmp_path / "cache.sqlite", ["x"])
    assert isinstance(replies[0], ChatReply)


@pytest.mark.parametrize("status", [401, 400, 429, 500])
def test_the_key_is_in_no_message_no_log_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("GPLAN_TEST_KEY", KEY)
    # The server repeats the header, as some do: "incorrect API key provided: ...".
    fault = {"kind": "error", "status": status, "times": None, "match": "row 0"}
    with scripted(tmp_path, faults=[{**fault, "message": "no: {authorization}"}]) as server:
        config = server.config(api_key_env="GPLAN_TEST_KEY", attempts=1)
        replies, client = ask_all(config, tmp_path / "cache.sqlite", numbers(2))
    assert "no: Bearer [API key]" in str(replies[0])
    shown = [repr(config), repr(client), str(client.ledger), client.ledger.note(), caplog.text]
    shown += [f"{reply!r} {reply}" for reply in replies]
    error: BaseException | None = replies[0]
    while error is not None:
        shown.append(f"{error!r} {error} {error.args}")
        error = error.__context__
    for path in tmp_path.rglob("*"):
        shown.append(path.read_bytes().decode("latin-1"))
    assert len(shown) > 7 and not [text for text in shown if KEY in text]


def test_the_key_is_sent_as_bearer_and_a_missing_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    responder = tmp_path / "echo.py"
    responder.write_text("def answer(body):\n    return body['model']\n")
    echo = {"kind": "error", "status": 400, "times": None, "message": "<{authorization}>"}
    with scripted(tmp_path, responder=f"{responder}:answer", faults=[echo]) as server:
        config = server.config(api_key_env="GPLAN_TEST_KEY")
        monkeypatch.setenv("GPLAN_TEST_KEY", f"{KEY}\n")
        sent, _ = ask_all(config, tmp_path / "cache.sqlite", ["x"])
        assert "<Bearer [API key]>" in str(sent[0])
        monkeypatch.delenv("GPLAN_TEST_KEY")
        missing, _ = ask_all(config, tmp_path / "cache.sqlite", ["x"])
        assert isinstance(missing[0], GplanError) and "GPLAN_TEST_KEY" in str(missing[0])
        monkeypatch.setenv("GPLAN_TEST_KEY", "with\nbreak")
        broken, _ = ask_all(config, tmp_path / "cache.sqlite", ["x"])
        assert "GPLAN_TEST_KEY" in str(broken[0]) and "break" not in str(broken[0])


def test_one_client_may_serve_one_loop_after_another(tmp_path: Path) -> None:
    with scripted(tmp_path) as server:
        client = ChatClient(server.config(), tmp_path / "cache.sqlite")
        ask: Callable[[str], Coroutine[Any, Any, ChatReply]] = lambda text: client.ask(  # noqa: E731
            request(text)
        )
        assert not asyncio.run(ask("a")).cached
        assert not asyncio.run(ask("b")).cached
        assert asyncio.run(ask("a")).cached
        asyncio.run(client.close())
        assert isinstance(server, Server)
