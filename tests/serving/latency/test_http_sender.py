"""The load generator's HTTP client: what it sends, its connections, its names for failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.serving.latency import load_generator as load_client
from gplan_jax.serving.latency.load_generator import (
    PLAN_PATH,
    Reply,
    Send,
    http_sender,
    send_on_schedule,
)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def talk(handle: Handler, calls: Callable[[Send], Awaitable[object]], **options: object) -> object:
    """Runs ``calls`` against a server whose connections ``handle`` handles."""

    async def main() -> object:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, http_sender(url, path="/v1/plan", **options) as send:  # type: ignore[arg-type]
            return await calls(send)

    return asyncio.run(main())


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(length)


def answering(replies: list[bytes], seen: list[bytes], *, per_connection: int = 100) -> Handler:
    """Gives these replies in turn, ``per_connection`` on each connection before it closes."""
    turns = iter(replies)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for _ in range(per_connection):
                seen.append(await read_request(reader))
                writer.write(next(turns))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    return handle


def test_a_body_is_posted_as_json_with_the_key() -> None:
    seen: list[bytes] = []
    reply = talk(answering([OK], seen), lambda send: send(b'{"a": 1}'), api_key="secret")
    assert reply == Reply(200, b"hi")
    [request] = seen
    assert request.startswith(b"POST /v1/plan HTTP/1.1\r\n") and request.endswith(
        b'\r\n\r\n{"a": 1}'
    )
    for header in (
        b"content-type: application/json",
        b"authorization: bearer secret",
        b"host: 127",
    ):
        assert header in request.lower()


def test_chunks_make_a_body_too() -> None:
    chunked = (
        b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    assert talk(answering([chunked], []), lambda send: send(b"{}")) == Reply(503, b"abcde")


def test_one_connection_serves_requests_in_turn_and_each_waiting_one_has_its_own() -> None:
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await answering([OK] * 10, [])(reader, writer)

    async def calls(send: Send) -> list[Reply]:
        return [await send(b"{}") for _ in range(3)]

    assert talk(handle, calls) == [Reply(200, b"hi")] * 3
    assert connections == 1

    async def together(send: Send) -> list[Reply]:
        return [await send(b"{}"), *await asyncio.gather(*(send(b"{}") for _ in range(5)))]

    connections = 0
    assert talk(handle, together) == [Reply(200, b"hi")] * 6
    assert connections == 5


def test_a_connection_that_was_closed_meanwhile_is_no_failure() -> None:
    async def calls(send: Send) -> list[Reply]:
        replies = []
        for _ in range(3):
            replies.append(await send(b"{}"))
            await asyncio.sleep(0.01)
        return replies

    handler = answering([OK] * 3, [], per_connection=1)
    assert talk(handler, calls) == [Reply(200, b"hi")] * 3


def test_an_idle_connection_is_given_up_before_the_server_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load_client, "KEEPALIVE_S", -1.0)
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await answering([OK] * 10, [])(reader, writer)

    async def calls(send: Send) -> list[Reply]:
        return [await send(b"{}") for _ in range(3)]

    talk(handle, calls)
    assert connections == 3


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (b"", "HungUp"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf", "RemoteProtocolError"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "RemoteProtocolError"),
    ],
)
def test_what_goes_wrong_has_a_name(reply: bytes, problem: str) -> None:
    handler = answering([reply], [], per_connection=1)
    found = talk(handler, lambda send: send(b"{}"))
    assert isinstance(found, Reply)
    assert (found.status, found.problem) == (0, problem)


def test_a_silent_server_is_waited_for_so_long_and_no_longer() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    found = talk(silent, lambda send: send(b"{}"), timeout_s=0.05)
    assert found == Reply(0, problem="Timeout")


def test_nobody_there_is_an_error_of_the_request() -> None:
    async def main() -> Reply:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        await server.wait_closed()
        async with http_sender(url, path="/v1/plan") as send:
            return await send(b"{}")

    assert asyncio.run(main()) == Reply(0, problem="ConnectionRefusedError")


def test_a_schedule_goes_over_http_to_the_plan_endpoint() -> None:
    seen: list[bytes] = []

    async def main() -> list[int]:
        server = await asyncio.start_server(answering([OK] * 2, seen), "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with http_sender(url, path=PLAN_PATH) as send:
                exchanges = await send_on_schedule(send, [b"{}"], [0.0, 0.01])
        return [exchange.status for exchange in exchanges]

    assert asyncio.run(main()) == [200, 200]
    assert all(request.startswith(b"POST /v1/plan ") for request in seen)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://a", "http://"])
def test_what_is_no_address_is_told(url: str) -> None:
    async def main() -> None:
        async with http_sender(url, path="/"):
            pass

    with pytest.raises(GplanError, match="is no address of a server"):
        asyncio.run(main())
