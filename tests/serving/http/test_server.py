"""The server on a real socket: hang-ups, sizes, slow bodies, draining."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx2
import pytest
from apps import Running, running, wait_until
from fake_engine import FakeEngine

from gplan_jax.foundation.errors import GplanError
from gplan_jax.inference.engine.requests import Engine, EngineSnapshot
from gplan_jax.serving.http.server import listen
from gplan_jax.serving.planning.serve import LateEngine

HEAD = b"POST /v1/plan HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
BODY = b'{"context":{}}'
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
LIMIT_KIB = 4


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(slots=2, queue=2)


@pytest.fixture
def server(engine: FakeEngine) -> Iterator[Running]:
    with running(engine, max_body_kib=LIMIT_KIB, body_timeout_s=0.3) as started:
        yield started


def test_answers_leave_without_delay() -> None:
    # What asyncio goes by when it turns off Nagle's algorithm; accepted sockets take it over.
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.proto == socket.IPPROTO_TCP


def connect(server: Running, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    connection.sendall(data)
    return connection


def response(connection: socket.socket) -> tuple[int, bytes]:
    """Status and all bytes up to where the server closes."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return int(received.split()[1]), received


def test_clients_that_hang_up_free_their_slots_and_places_in_the_queue(
    engine: FakeEngine, server: Running
) -> None:
    engine.delay_s = 60
    clients = [connect(server, REQUEST) for _ in range(4)]
    wait_until(lambda: (engine.snapshot().active, engine.snapshot().queued) == (2, 2))
    assert httpx2.post(f"{server.url}/v1/plan", json={"context": {}}).status_code == 503
    for client in clients:
        client.close()
    wait_until(lambda: (engine.snapshot().active, engine.snapshot().queued) == (0, 0))
    engine.delay_s = 0
    assert httpx2.post(f"{server.url}/v1/plan", json={"context": {}}).status_code == 200
    text = httpx2.get(f"{server.url}/metrics").text
    assert 'gplan_requests_total{outcome="cancelled"} 4.0' in text
    assert engine.snapshot().cancelled == 4


def test_a_hang_up_ends_all_contexts_of_a_request(engine: FakeEngine, server: Running) -> None:
    engine.delay_s = 60
    body = json.dumps({"contexts": [{}] * 5}).encode()
    head = HEAD.replace(b"/v1/plan", b"/v1/plans")
    client = connect(server, head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    wait_until(lambda: engine.snapshot().active == 2)
    client.close()
    wait_until(lambda: engine.snapshot().active == 0)
    engine.delay_s = 0
    httpx2.post(f"{server.url}/v1/plan", json={"context": {}}).raise_for_status()
    assert len(engine.requests) == 3  # The three that waited never reached the engine.


def test_a_body_that_says_it_is_too_large_is_refused_unread(server: Running) -> None:
    status, received = response(connect(server, HEAD + b"Content-Length: 999999999\r\n\r\n"))
    assert status == 413 and b"at most 4096 bytes" in received


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large(server: Running) -> None:
    chunk = b"800\r\n" + b" " * 2048 + b"\r\n"
    data = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + 3 * chunk
    status, received = response(connect(server, data))  # The body is never ended.
    assert status == 413 and b"too_large" in received


def test_a_body_of_the_greatest_size_is_taken(server: Running) -> None:
    body = BODY.ljust(LIMIT_KIB * 1024)
    for content, status in ((body, 200), (body + b" ", 413)):
        answer = httpx2.post(
            f"{server.url}/v1/plan", content=content, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == status


def test_a_body_that_does_not_come_is_not_waited_for(server: Running) -> None:
    status, received = response(connect(server, HEAD + b"Content-Length: 14\r\n\r\n{"))
    assert status == 408 and b"slow_body" in received


def test_bytes_that_are_no_http_do_no_harm(server: Running) -> None:
    assert response(connect(server, b"\x16\x03\x01 garbage\r\n\r\n"))[0] == 400
    assert httpx2.get(f"{server.url}/readyz").status_code == 200


def ask_in_threads(server: Running, pool: ThreadPoolExecutor, count: int) -> list[Future[int]]:
    def ask() -> int:
        return httpx2.post(f"{server.url}/v1/plan", json={"context": {}}, timeout=30).status_code

    return [pool.submit(ask) for _ in range(count)]


def test_a_server_that_is_told_to_stop_finishes_what_it_has_accepted(
    engine: FakeEngine, server: Running
) -> None:
    engine.delay_s = 60
    with ThreadPoolExecutor() as pool:
        accepted = ask_in_threads(server, pool, 3)
        wait_until(lambda: (engine.snapshot().active, engine.snapshot().queued) == (2, 1))
        server.server.stop()
        wait_until(lambda: httpx2.get(f"{server.url}/readyz").status_code == 503)
        refused = httpx2.post(f"{server.url}/v1/plan", json={"context": {}})
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
        assert "Retry-After" in refused.headers
        assert httpx2.get(f"{server.url}/healthz").status_code == 200
        engine.delay_s = 0.1
        assert [future.result() for future in accepted] == [200] * 3
    server.thread.join(timeout=10)
    assert not server.thread.is_alive()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{server.url}/healthz")


def test_what_is_not_finished_in_time_is_refused_and_the_server_ends() -> None:
    engine = FakeEngine(delay_s=60, slots=1)
    with running(engine, drain_s=0.2) as server, ThreadPoolExecutor() as pool:
        accepted = ask_in_threads(server, pool, 2)
        wait_until(lambda: engine.snapshot().active + engine.snapshot().queued == 2)
        server.server.stop()
        assert [future.result() for future in accepted] == [503] * 2
        server.thread.join(timeout=10)
        assert not server.thread.is_alive()


def test_a_taken_port_is_named() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(GplanError, match=f"Port {port} of 127.0.0.1 is taken.*--port"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host"])
def test_an_address_of_another_machine_is_named(host: str) -> None:
    with pytest.raises(GplanError, match=f"{host} is no address of this machine"):
        listen(host, 0)


def test_an_engine_that_is_loaded_late_is_not_ready_until_then() -> None:
    real, loaded = FakeEngine(), Future[None]()

    def load() -> Engine:
        loaded.result(timeout=10)
        return real

    late = LateEngine(load, on_loaded=lambda engine: None)
    assert late.snapshot() == EngineSnapshot(
        ready=False, queued=0, active=0, slots=0, queue_limit=0
    )
    late.start(on_failure=lambda: None)
    assert late.loading
    loaded.set_result(None)
    wait_until(lambda: late.snapshot().ready and not late.loading)
    late.close()
    assert late.failure is None and not real._thread.is_alive()


def test_an_engine_that_comes_after_the_end_is_closed() -> None:
    real, loaded = FakeEngine(), Future[None]()

    def load() -> Engine:
        loaded.result(timeout=10)
        return real

    late = LateEngine(load, on_loaded=lambda engine: pytest.fail("it is too late"))
    late.start(on_failure=lambda: None)
    late.close()
    loaded.set_result(None)
    wait_until(lambda: not late.loading)
    assert not real._thread.is_alive() and not late.snapshot().ready


def test_an_engine_that_cannot_be_loaded_says_why() -> None:
    def load() -> Engine:
        raise GplanError("no weights")

    ended = Future[None]()
    late = LateEngine(load, on_loaded=lambda engine: None)
    late.start(on_failure=lambda: ended.set_result(None))
    ended.result(timeout=10)
    assert str(late.failure) == "no weights"
