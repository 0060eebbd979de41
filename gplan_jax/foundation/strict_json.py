"""JSON by the standard, read and written; Python's own takes and gives NaN and more."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

_HALF = re.compile("[\ud800-\udfff]")


def parse_json(text: str | bytes) -> Any:
    """The value of one JSON document; bytes are UTF-8, with or without a byte order mark.

    ValueError where it is none; also where an object gives a key twice, on whose value readers
    disagree, a number is NaN or infinite, or a text holds half a character (a lone surrogate),
    which no file or tokenizer takes.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if "\\u" in text:  # The only way to half a character in what was UTF-8.
        for key, part in value.items() if isinstance(value, dict) else [("", value)]:
            if found := _HALF.search(json.dumps([key, part], ensure_ascii=False)):
                raise ValueError(f"{key or 'a text'} holds half a character ({found[0]!a})")
    return value


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON that every reader takes, half a character as U+FFFD; ValueError for NaN and infinity."""
    return whole(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent))


def whole(text: str) -> str:
    """``text`` with U+FFFD for half a character (a lone surrogate), which a model may write."""
    return _HALF.sub("\ufffd", text)


def finite(value: Any) -> Any:
    """The same mappings, lists and values, with None for numbers that aren't finite."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = [key for key in values if keys.count(key) > 1]
        raise ValueError(f"an object gives {', '.join(repeated)} twice")
    return values


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number; write null where there is none")


def _finite(digits: str) -> float:
    return number if math.isfinite(number := float(digits)) else _no_number(digits)
