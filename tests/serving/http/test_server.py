"""The server on a real socket: hang-ups, sizes, slow bodies, draining."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import resource
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from apps import Running, loaded_model, running, wait_until
from fake_engine import FakeEngine
from pydantic import SecretStr

from gplan_jax.foundation.errors import GplanError
from gplan_jax.inference.engine.requests import EngineSnapshot
from gplan_jax.serving.http import server as connections
from gplan_jax.serving.http.server import listen
from gplan_jax.serving.planning.models import MAIN, LoadedModel, Models, NoEngineYet
from gplan_jax.serving.planning.serve import allowed_hosts

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


def test_a_client_that_closed_its_sending_side_gets_its_answer(
    engine: FakeEngine, server: Running
) -> None:
    engine.delay_s = 0.7
    connection = connect(server, REQUEST)
    connection.shutdown(socket.SHUT_WR)
    received = response(connection)[1]
    interim, _, final = received.partition(b"\r\n\r\n")
    assert interim == b"HTTP/1.1 102 Processing"
    assert b"HTTP/1.1 200 OK" in final and b'"plan"' in final


@pytest.mark.parametrize("sent", [b"", b"POST /v1/pl", HEAD])
def test_headers_that_do_not_come_are_not_waited_for(
    sent: bytes, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADERS_S", 0.3)
    connection, started = connect(server, sent), time.monotonic()
    with pytest.raises(OSError):  # Dripping wins no time.
        while time.monotonic() - started < 5:
            connection.sendall(b"x")
            time.sleep(0.02)
    assert 0.2 < time.monotonic() - started < 3


def test_a_second_requests_headers_have_a_deadline_too(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADERS_S", 0.3)
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for _ in range(2):
        client.request("POST", "/v1/plan", BODY, {"Content-Type": "application/json"})
        answer = client.getresponse()
        assert answer.status == 200 and answer.read()
        time.sleep(0.5)  # Between requests it may be idle for longer.
    client.sock.sendall(b"POST /v1/pl")
    started = time.monotonic()
    with contextlib.suppress(ConnectionResetError):
        assert client.sock.recv(1) == b""
    assert 0.2 < time.monotonic() - started < 5


def test_idle_connections_make_room_and_those_at_work_keep_theirs(
    engine: FakeEngine, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections.GuardedProtocol, "most", 3)
    idle = [connect(server, b"POST /v1") for _ in range(20)]
    assert httpx2.get(f"{server.url}/healthz").status_code == 200
    assert len(server.server.server_state.connections) <= 3
    engine.delay_s = 60
    working = [connect(server, REQUEST) for _ in range(3)]
    wait_until(lambda: engine.snapshot().active + engine.snapshot().queued == 3)
    with pytest.raises(httpx2.TransportError):
        httpx2.get(f"{server.url}/healthz")
    engine.delay_s = 0
    assert [c.recv(65536)[:12] for c in working] == [b"HTTP/1.1 200"] * 3
    for connection in idle:
        connection.close()


def test_the_bound_leaves_descriptors_for_all_that_wait() -> None:
    most, waiting = connections.connection_limits()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard and most + waiting + connections.RESERVED_FILES <= soft


def test_faults_of_the_loop_take_one_line_a_while(server: Running, log_lines: list[str]) -> None:
    fault = {"message": "socket.accept() out of system resource", "exception": OSError()}
    for _ in range(1000):
        server.server._loop_fault(asyncio.new_event_loop(), fault)
    assert sum("loop_fault" in line for line in log_lines) == 1


def test_a_slash_behind_a_path_is_no_redirect(server: Running) -> None:
    for path in ("/v1/plan/", "/v1/plan//"):
        answer = httpx2.post(f"{server.url}{path}", json={"context": {}})
        assert answer.status_code == 200 and answer.json()["plan"]


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics"])
def test_head_is_get_without_a_body(path: str, server: Running) -> None:
    answer = httpx2.head(f"{server.url}{path}")
    assert (answer.status_code, answer.content) == (200, b"")


def test_hosts_and_keys_are_read_as_http_says(engine: FakeEngine) -> None:
    allowed = allowed_hosts("127.0.0.1", ["Plans.Example.com"])
    with running(engine, api_key=SecretStr("KEY"), hosts=allowed) as server:

        def ask(host: str, key: str) -> int:
            headers = {"Host": host, "Authorization": key}
            url = f"{server.url}/v1/plan"
            return httpx2.post(url, json={"context": {}}, headers=headers).status_code

        for host in ("localhost", f"localhost:{server.port}", "[::1]:80", "plans.example.COM"):
            assert ask(host, "bearer KEY") == 200, host
        assert ask("evil.example", "Bearer KEY") == 421
        assert ask("localhost", "BEARER KEY") == 200
        assert [ask("localhost", key) for key in ("Bearer key", "Basic KEY", "KEY")] == [401] * 3
    assert allowed_hosts("0.0.0.0", []) == ()


def test_a_batch_that_was_accepted_is_finished_after_a_stop(
    engine: FakeEngine, server: Running
) -> None:
    engine.delay_s = 0.1
    with ThreadPoolExecutor() as pool:
        body = {"contexts": [{}] * 9}
        batch = pool.submit(httpx2.post, f"{server.url}/v1/plans", json=body, timeout=30)
        wait_until(lambda: engine.snapshot().active == 2)
        server.server.stop()
        results = batch.result().json()["results"]
    assert len(results) == 9 and all("plan" in result for result in results)
    server.thread.join(timeout=10)
    assert not server.thread.is_alive()


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


def late_models(load: Callable[[Path], LoadedModel]) -> Models:
    return Models(loaded_model(NoEngineYet()), load, {MAIN: Path("it")})


def test_an_engine_that_is_loaded_late_is_not_ready_until_then() -> None:
    real, loaded = FakeEngine(), Future[None]()

    def load(path: Path) -> LoadedModel:
        loaded.result(timeout=10)
        return loaded_model(real, "it", "0")

    late, told = late_models(load), list[str]()
    assert late.snapshot() == EngineSnapshot(
        ready=False, queued=0, active=0, slots=0, queue_limit=0
    )
    late.start(lambda: told.append(late.current.main.revision), on_failure=lambda: None)
    assert late.loading
    loaded.set_result(None)
    wait_until(lambda: late.snapshot().ready and not late.loading)
    late.close()
    assert told == ["0"] and late.failure is None and not real._thread.is_alive()


def test_an_engine_that_comes_after_the_end_is_closed() -> None:
    real, loaded = FakeEngine(), Future[None]()

    def load(path: Path) -> LoadedModel:
        loaded.result(timeout=10)
        return loaded_model(real, "it", "0")

    late = late_models(load)
    late.start(lambda: pytest.fail("it is too late"), on_failure=lambda: None)
    late.close()
    loaded.set_result(None)
    wait_until(lambda: not late.loading)
    assert not real._thread.is_alive() and not late.snapshot().ready


def test_an_engine_that_cannot_be_loaded_says_why() -> None:
    def load(path: Path) -> LoadedModel:
        raise GplanError("no weights")

    ended = Future[None]()
    late = late_models(load)
    late.start(lambda: pytest.fail("it has not"), on_failure=lambda: ended.set_result(None))
    ended.result(timeout=10)
    assert str(late.failure) == "no weights"
