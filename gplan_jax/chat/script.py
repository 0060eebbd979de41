"""What a scripted server does to whom, and what it says.

Faults are data, chosen by a hash of the request; answers are JSON that has the schema a request
asks for, or what a function of one's own returns.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import runpy
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import Config

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
