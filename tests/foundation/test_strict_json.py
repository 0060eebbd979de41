from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation.files import finite, json_text, parse_json

texts = st.text(st.characters(codec="utf-8"))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | texts
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=8,
)


@given(values, st.booleans())
def test_what_json_can_say_reads_back(value: Any, ascii_only: bool) -> None:
    assert parse_json(json_text(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode("utf-8-sig")) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "gives c twice"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ("[-Infinity]", "-Infinity is no JSON number"),
        ("1e999", "1e999 is no JSON number"),
        (r'{"a": 1, "b": ["\ud83d"]}', r"b holds half a character \('\\ud83d'\)"),
        (r'{"\ude00": 1}', "holds half a character"),
        (r'["\ud83d\ud83d\ude00"]', "a text holds half a character"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "digits"),
        ("{} {}", "Extra data"),
        (b'"\xff"', "utf-8"),
        (b'"\xed\xa0\xbd"', "utf-8"),
    ],
)
def test_what_is_no_json_is_said(text: str | bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_json(text)


def test_what_is_not_finite_is_never_written() -> None:
    value = {"a": [math.nan, 1.5, (-math.inf, "nan")], "b": {"c": math.inf, "d": 3}}
    with pytest.raises(ValueError, match="JSON"):
        json_text(value)
    assert json_text(["\ud83d", "😀"]) == '["\ufffd", "😀"]'
    assert finite(value) == {"a": [None, 1.5, [None, "nan"]], "b": {"c": None, "d": 3}}
