"""A fake OpenAI-compatible server for rehearsals: real sockets, scripted faults, a billing log.

python -m gplan_jax.chat.scripted_server --port 8000 --script script.json
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
from collections import Counter, deque
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gplan_jax.chat.script import (
    Responder,
    Script,
    content_fault,
    default_responder,
    delivery_fault,
    latency_s,
    load_responder,
    prompt_text,
)
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import load_config

MOST_HEAD_BYTES = 64 * 1024
MOST_BODY_BYTES = 64 * 1024 * 1024
EXAMPLE = """\
example:
  echo '{"latency_s": 0.02, "faults": [
          {"kind": "throttle", "share": 0.05, "retry_after": "1"},
          {"kind": "error", "share": 0.03, "times": 2, "status": 500},
          {"kind": "hang", "share": 0.01}]}' > script.json
  python -m gplan_jax.chat.scripted_server --port 8000 --script script.json
  curl http://127.0.0.1:8000/log
"""


class HttpRequest(NamedTuple):
    """A request as it was read; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Log:
    """What the server saw and did; answers are billed when they are made, delivered or not."""

    requests: int = 0
    most_at_once: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    paid: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    timeline: deque[tuple[float, str, str]] = field(default_factory=lambda: deque(maxlen=10_000))

    def as_json(self) -> dict[str, Any]:
        """Plain values; the maps are by Idempotency-Key, the timeline's times in seconds."""
        return vars(self) | {"timeline": list(self.timeline)}


class ScriptedServer:
    """Answers chat completions as ``script`` says."""

    def __init__(self, script: Script, responder: Responder = default_responder) -> None:
        self._script, self._responder = script, responder
        self._slots = asyncio.Semaphore(script.slots) if script.slots else None
        self._log = Log()
        self._at_once = 0
        self._answers: dict[str, dict[str, Any]] = {}
        self._bodies: dict[str, bytes] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection until the client leaves or a fault cuts it."""
        with suppress(
            asyncio.CancelledError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            ConnectionError,
        ):
            while request := await _read_request(reader, writer):
                if not await self._respond(request, reader, writer):
                    break
        writer.close()

    async def _respond(
        self, request: HttpRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answers one request; False where the connection is at its end."""
        path = request.path.partition("?")[0]
        if request.method == "POST" and path.endswith("/chat/completions"):
            self._at_once += 1
            self._log.most_at_once = max(self._log.most_at_once, self._at_once)
            try:
                return await self._complete(request, reader, writer)
            finally:
                self._at_once -= 1
        if request.method == "GET" and path == "/log":
            return _send(writer, 200, self._log.as_json())
        if request.method == "GET" and path.endswith("/models"):
            return _send(writer, 200, {"object": "list", "data": [{"id": self._script.model}]})
        return _send(writer, 404, _error(404, f"there is no {request.method} {path}"))

    async def _complete(
        self, request: HttpRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        self._log.requests += 1
        try:
            body = json.loads(request.body)
            prompt = prompt_text(body)
        except (ValueError, KeyError, TypeError, AttributeError):
            return self._refuse(writer, "", 400, "the body is no chat request")
        key = request.headers.get("idempotency-key") or hashlib.sha256(request.body).hexdigest()
        attempt = self._log.asked[key]
        self._log.asked[key] += 1
        self._note(key, "asked")
        script = self._script
        digest = hashlib.sha256(request.body).digest()
        if script.idempotent and self._bodies.setdefault(key, digest) != digest:
            return self._refuse(writer, key, 409, "this Idempotency-Key came with another body")
        if script.at_once is not None and self._at_once > script.at_once:
            headers = {} if script.retry_after is None else {"Retry-After": script.retry_after}
            return self._refuse(writer, key, 429, "too many requests at once", headers)
        wanted = (body.get("response_format") or {}).get("type", "text")
        if wanted != "text" and wanted not in script.formats:
            message = f"response_format of type '{wanted}' is not supported"
            return self._refuse(writer, key, 400, message)
        fault = delivery_fault(script, key, prompt, attempt)
        kind = fault.kind if fault else ""
        if fault and kind == "throttle":
            pause = {"Retry-After": fault.retry_after, "retry-after-ms": fault.retry_after_ms}
            headers = {name: f"{value}" for name, value in pause.items() if value is not None}
            return self._refuse(writer, key, 429, "slow down", headers)
        if fault and kind == "error":
            said = fault.message.replace(
                "{authorization}", request.headers.get("authorization", "")
            )
            return self._refuse(writer, key, fault.status, said)
        if kind == "hang":
            await reader.read(1)
            return False
        if kind == "drop":
            return False
        later_s = fault.seconds if fault and kind == "slow" else 0.0
        async with self._slots or nullcontext():
            await asyncio.sleep(latency_s(script, key) + later_s)
        try:
            answer = self._answer(key, prompt, body)
        except Exception as error:
            return self._refuse(writer, key, 500, f"the responder failed: {error!r}")
        if kind == "no_usage":
            answer = {name: value for name, value in answer.items() if name != "usage"}
        whole = json.dumps(answer, ensure_ascii=False).encode()
        half = whole[: len(whole) // 2]
        if kind == "cut":
            writer.write(_head(200, len(whole), {}) + half)
            self._note(key, "cut")
            return False
        if kind != "truncate":
            self._log.sent[key] += 1
        self._log.statuses["200"] += 1
        self._note(key, "200")
        body_bytes = half if kind == "truncate" else whole
        writer.write(_head(200, len(body_bytes), {}) + body_bytes)
        return True

    def _answer(self, key: str, prompt: str, body: dict[str, Any]) -> dict[str, Any]:
        """The completion of a request; made and billed once where the server is idempotent."""
        known = self._answers.get(key)
        if known is not None and self._script.idempotent:
            return known
        text, reason = self._responder(body), "stop"
        fault = content_fault(self._script, key, prompt)
        match fault.kind if fault else "":
            case "short":
                text, reason = text[: len(text) // 2], "length"
            case "wrong_schema":
                text = '{"unexpected": true}'
            case "twice":
                text = f"{text}\n{text}"
            case "filter":
                reason = "content_filter"
        message = {"role": "assistant", "content": text}
        prompt_tokens, completion_tokens = _tokens(prompt), _tokens(text)
        answer: dict[str, Any] = {
            "id": f"chatcmpl-{key[:12]}",
            "object": "chat.completion",
            "model": self._script.model,
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        }
        if self._script.usage:
            answer["usage"] = {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            }
        self._answers[key] = answer
        self._log.paid[key] += 1
        self._log.tokens += prompt_tokens + completion_tokens
        return answer

    def _refuse(
        self,
        writer: asyncio.StreamWriter,
        key: str,
        status: int,
        message: str,
        headers: dict[str, str] | None = None,
    ) -> bool:
        self._log.statuses[str(status)] += 1
        self._note(key, str(status))
        return _send(writer, status, _error(status, message), headers)

    def _note(self, key: str, what: str) -> None:
        self._log.timeline.append((asyncio.get_running_loop().time(), key, what))


async def _read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> HttpRequest | None:
    """The next request on a connection; None at its end, or after a request that is no HTTP."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers or not length.isdecimal() or int(length) > MOST_BODY_BYTES:
        _send(writer, 411, _error(411, "bodies come with a Content-Length of at most 64 MiB"))
        return None
    body = await reader.readexactly(int(length))
    return HttpRequest(method, rest.rpartition(" ")[0], headers, body)


def _send(
    writer: asyncio.StreamWriter, status: int, value: Any, headers: dict[str, str] | None = None
) -> bool:
    body = json.dumps(value, ensure_ascii=False).encode()
    writer.write(_head(status, len(body), headers or {}) + body)
    return True


def _head(status: int, length: int, headers: dict[str, str]) -> bytes:
    lines = [
        f"HTTP/1.1 {status} Scripted",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _error(status: int, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "scripted", "param": None, "code": status}}


def _tokens(text: str) -> int:
    return len(text.encode("utf-8", "replace")) // 4 + 1


async def run(server: ScriptedServer, host: str, port: int, until_eof: bool) -> None:
    """Listens, prints the base URL, and serves until stopped (or stdin ends)."""
    listener = await asyncio.start_server(server.serve, host, port, limit=MOST_HEAD_BYTES)
    print(f"http://{host}:{listener.sockets[0].getsockname()[1]}/v1", flush=True)
    if until_eof:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    else:
        await asyncio.Event().wait()


def main() -> None:
    """Serves until Ctrl-C, or until stdin ends with --until-eof; prints the address first."""
    parser = argparse.ArgumentParser(
        prog="python -m gplan_jax.chat.scripted_server",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one; it is printed")
    parser.add_argument("--script", type=Path, help="YAML or JSON; see docs/chat.md")
    parser.add_argument("--responder", help="module:function or file.py:function, body -> text")
    parser.add_argument("--until-eof", action="store_true", help="stop when stdin ends")
    given = parser.parse_args()
    try:
        script = load_config(Script, given.script) if given.script else Script()
        responder = load_responder(given.responder) if given.responder else default_responder
    except GplanError as error:
        parser.exit(2, f"{error}\n")
    server = ScriptedServer(script, responder)
    try:
        asyncio.run(run(server, given.host, given.port, given.until_eof))
    except KeyboardInterrupt:
        pass
    except OSError as error:
        parser.exit(2, f"Can't listen on {given.host}:{given.port} ({error}); name another port.\n")


if __name__ == "__main__":
    main()
