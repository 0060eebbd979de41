"""A request's body: read under a limit, parsed strictly, checked against its schema.

Any bytes end in a valid model or an ``ApiError``.
"""

from __future__ import annotations

import asyncio
import difflib
import json
from typing import Any, TypeVar

import pydantic
from starlette.requests import Request

from gplan_jax.foundation import strict_json
from gplan_jax.foundation.config import fields_at
from gplan_jax.serving.http.errors import ApiError


class StrictBody(pydantic.BaseModel):
    """A body whose keys are all known and whose values have their types."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)


Body = TypeVar("Body", bound=pydantic.BaseModel)
MOST_FAULTS, LONGEST_KEY = 5, 60
_PLAINER = {
    "string_type": "must be text",
    "string_pattern_mismatch": "may not hold the character NUL",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "model_type": "must be an object",
    "list_type": "must be a list",
}


async def read_json(request: Request, *, max_bytes: int, timeout_s: float) -> tuple[Any, int]:
    """The JSON value of a request's body, and how many bytes that was.

    Raises:
        ApiError: 415 for another content type, 413 for more than ``max_bytes``, 408 where the body
            takes longer than ``timeout_s``, 400 where it is no UTF-8 JSON.
        ClientDisconnect: the client has gone.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "not_json", "Send the body with Content-Type: application/json.")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError(415, "encoded_body", "Send the body as it is, without a Content-Encoding.")
    too_large = ApiError(413, "too_large", f"The body may have at most {max_bytes} bytes.")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large
    except TimeoutError:
        message = f"The body did not arrive within {timeout_s:g} s."
        raise ApiError(408, "slow_body", message) from None
    return parse_json(body), len(body)


def parse_json(body: bytes | bytearray) -> Any:
    """Parses UTF-8 JSON by the standard, as ``strict_json`` does; ApiError 400."""
    try:
        return strict_json.parse_json(bytes(body))
    except UnicodeDecodeError as error:
        message = f"The body is not UTF-8: byte {error.start} can't be read."
    except json.JSONDecodeError as error:
        message = f"The body is not JSON: {error.msg} at character {error.pos}."
    except ValueError as error:
        message = f"The body is not acceptable JSON: {_shown(str(error), 200)}."
    raise ApiError(400, "bad_json", message)


def validate(kind: type[Body], value: Any) -> Body:
    """Checks a JSON value against a schema; ApiError 422 names the first few keys at fault."""
    try:
        return kind.model_validate(value)
    except pydantic.ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        more = len(faults) - MOST_FAULTS
        lines = [_explain(kind, fault["loc"], fault) for fault in faults[:MOST_FAULTS]]
        message = "; ".join(lines) + (f"; and {more} more faults" if more > 0 else "") + "."
        in_context = any(part in ("context", "contexts") for f in faults for part in f["loc"])
        code = "bad_context" if in_context else "bad_request"
        raise ApiError(422, code, message, column=_column(faults)) from None


def _column(faults: list[Any]) -> str | None:
    """The first column of a context at fault, else the path of another key; None where no fault
    is in a key of the schema.
    """
    for fault in faults:
        where = [str(part) for part in fault["loc"]]
        if not where or fault["type"] == "extra_forbidden":
            continue
        if where[0] not in ("context", "contexts"):
            return ".".join(where)
        if len(where) > 1 and not where[-1].isdecimal():
            return where[-1]
    return None


def _explain(kind: type[pydantic.BaseModel], location: tuple[str | int, ...], fault: Any) -> str:
    where = ".".join(_shown(part) for part in location) or "the body"
    if fault["type"] == "missing":
        return f"{where} is missing"
    if fault["type"] in _PLAINER:
        return f"{where} {_PLAINER[fault['type']]}"
    if fault["type"] != "extra_forbidden":
        return f"{where}: {fault['msg']}"
    known = fields_at(kind, [str(part) for part in location[:-1]])
    near = difflib.get_close_matches(str(location[-1])[:LONGEST_KEY], known, n=3, cutoff=0.5)
    hint = f"near are {', '.join(near)}" if near else f"known are {', '.join(known)}"
    return f"{where} is unknown; {hint}"


def _shown(part: str | int, most: int = LONGEST_KEY) -> str:
    """A key for an error message, cut short and printable."""
    text = str(part)
    text = text if len(text) <= most else text[:most] + "..."
    return text if text.isprintable() else ascii(text)
