"""A fake OpenAI-compatible server for rehearsals: real sockets, scripted faults, a billing log.

    python scripts/scripted_server.py --port 8000 --script script.json

Faults are data, chosen by a hash of the request; answers are JSON that has the schema a request
asks for, or what a function of one's own returns.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib
import json
import runpy
import sys
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import Config, load_config

MOST_HEAD_BYTES = 64 * 1024
MOST_BODY_BYTES = 64 * 1024 * 1024
EXAMPLE = """\
example:
  echo '{"latency_s": 0.02, "faults": [
          {"kind": "throttle", "share": 0.05, "retry_after": "1"},
          {"kind": "error", "share": 0.03, "times": 2, "status": 500},
          {"kind": "hang", "share": 0.01}]}' > script.json
  python scripts/scripted_server.py --port 8000 --script script.json
  curl http://127.0.0.1:8000/log
"""
# These change what the answer says, once and for all; the others only how it is delivered.
CONTENT = ("short", "wrong_schema", "twice", "filter")
FaultKind = Literal[
    "throttle",  # 429, with retry_after as its Retry-After
    "error",  # ``status`` with ``message``
    "hang",  # no answer until the client gives up
    "drop",  # the connection is cut before the first byte
    "slow",  # ``seconds`` later than the others
    "cut",  # the connection is cut in the middle of the answer
    "truncate",  # a whole response whose JSON body ends in the middle
    "short",  # half of the text, finish_reason "length"
    "wrong_schema",  # JSON of another shape
    "twice",  # the text, and then the text again
    "filter",  # finish_reason "content_filter"
    "no_usage",  # an answer that doesn't say what it cost
]
Format = Literal["json_schema", "json_object"]
Responder = Callable[[dict[str, Any]], str]
Share = Annotated[float, Field(ge=0, le=1)]


class Fault(Config):
    """Something that goes wrong with a share of the requests."""

    kind: FaultKind
    share: Share = 1.0  # of the requests, chosen by a hash of their key
    # So many of a request's attempts; null: all. What changes an answer's text has no times.
    times: Annotated[int, Field(ge=1)] | None = 1
    match: str = ""  # only requests that hold this text in a message
    retry_after: str | None = None  # of a throttle, as the header says it ("2", or an HTTP date)
    retry_after_ms: float | None = None
    status: Annotated[int, Field(ge=300, le=599)] = 500  # of an error
    message: str = "scripted fault"  # of an error; {authorization} is replaced by that header
    seconds: float = 1.0  # of a slow answer


class Script(Config):
    """How a scripted server answers."""

    model: str = "scripted"  # the name it gives itself
    latency_s: Annotated[float, Field(ge=0)] = 0.0  # from a request's end to its answer's start
    latency_spread: Share = 0.0  # latencies lie in latency_s (1 ± spread), by the request's hash
    # Requests worked on at once; the others wait in line, as at vLLM and SGLang.
    slots: Annotated[int, Field(ge=1)] | None = None
    # Requests taken in at once; more are refused with 429 and ``retry_after``.
    at_once: Annotated[int, Field(ge=1)] | None = None
    retry_after: str | None = None
    # The response formats it knows; the others get a 400.
    formats: Annotated[tuple[Format, ...], Field(strict=False)] = ("json_schema", "json_object")
    usage: bool = True  # answers report their tokens
    # A request that comes again with its Idempotency-Key gets the same answer, and isn't billed
    # again; with another body it is refused (409).
    idempotent: bool = True
    # All that apply to a request happen to it one after the other.
    faults: Annotated[tuple[Fault, ...], Field(strict=False)] = ()
    seed: int = 0


def delivery_fault(script: Script, key: str, prompt: str, attempt: int) -> Fault | None:
    """What happens to the ``attempt``-th sending (from 0) of the request ``key``."""
    for index, fault in enumerate(script.faults):
        if fault.kind in CONTENT or not _applies(script, index, fault, key, prompt):
            continue
        if fault.times is None or attempt < fault.times:
            return fault
        attempt -= fault.times
    return None


def content_fault(script: Script, key: str, prompt: str) -> Fault | None:
    """What is wrong with the text that the request ``key`` is answered with."""
    for index, fault in enumerate(script.faults):
        if fault.kind in CONTENT and _applies(script, index, fault, key, prompt):
            return fault
    return None


def latency_s(script: Script, key: str) -> float:
    """How long the request ``key`` is worked on."""
    spread = script.latency_spread * (2 * uniform(script.seed, "latency", key) - 1)
    return script.latency_s * (1 + spread)


def uniform(*parts: object) -> float:
    """A number in [0, 1) that is a function of ``parts``."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def prompt_text(body: Mapping[str, Any]) -> str:
    """The texts of all messages of a request, a line break between them."""
    return "\n".join(str(message.get("content") or "") for message in body["messages"])


def _applies(script: Script, index: int, fault: Fault, key: str, prompt: str) -> bool:
    chosen = fault.share == 1.0 or uniform(script.seed, index, fault.kind, key) < fault.share
    return chosen and fault.match in prompt


def load_responder(name: str) -> Responder:
    """The function ``module:function`` or ``file.py:function``.

    It takes a request's body and returns the text of the answer. It should be a function of the
    body alone, so that a run repeated has the same answers.
    """
    source, colon, function = name.rpartition(":")
    if not colon:
        raise GplanError(f"Responder {name!r} is not of the form module:function.")
    try:
        if source.endswith(".py"):
            found = runpy.run_path(source)[function]
        else:
            found = getattr(importlib.import_module(source), function)
    except (ImportError, OSError, AttributeError, KeyError) as error:
        raise GplanError(f"Responder {name!r} can't be loaded: {error}.") from None
    if not callable(found):
        raise GplanError(f"Responder {name!r} is not a function.")
    responder: Responder = found
    return responder


def default_responder(body: dict[str, Any]) -> str:
    """JSON with the schema in the body's response_format; a function of the body.

    Without a schema: ``{"answer": TEXT}``. The texts are hashes of the prompt and the seed.
    """
    prompt = prompt_text(body) + str(body.get("seed", ""))
    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
    if schema is None:
        schema = {"type": "object", "required": ["answer"], "properties": {"answer": {}}}
    return json.dumps(example(schema, prompt), ensure_ascii=False)


def example(schema: Mapping[str, Any], seed: str, root: Mapping[str, Any] | None = None) -> Any:
    """A value that ``schema`` admits, chosen by ``seed``.

    Knows enum, const, type, properties, items, minItems, minimum, maximum, anyOf, oneOf and local
    references (below ``root``: the schema itself); patterns and formats are not looked at.
    """
    root = schema if root is None else root
    digest = hashlib.sha256(seed.encode("utf-8", "replace")).digest()
    number = int.from_bytes(digest[:4], "big")
    if "$ref" in schema:
        target: Any = root
        for part in str(schema["$ref"]).removeprefix("#/").split("/"):
            target = target[part]
        return example(target, seed, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][number % len(schema["enum"])]
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return example(schema[choice][number % len(schema[choice])], seed, root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind if isinstance(kind, str) else kind[0]:
        case "object":
            names = schema.get("required", schema.get("properties", {}))
            fields = schema.get("properties", {})
            return {name: example(fields.get(name, {}), f"{seed}/{name}", root) for name in names}
        case "array":
            count = max(1, int(schema.get("minItems", 1)))
            return [example(schema.get("items", {}), f"{seed}/{i}", root) for i in range(count)]
        case "integer" | "number":
            low = schema.get("minimum", 0)
            return low + number % (schema.get("maximum", low + 9) - low + 1)
        case "boolean":
            return number % 2 == 0
        case "null":
            return None
    return digest.hex()[: max(8, int(schema.get("minLength", 0)))]


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
