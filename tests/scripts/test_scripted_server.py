from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import (
    Script,
    content_fault,
    default_responder,
    delivery_fault,
    example,
    latency_s,
    load_responder,
)

from gplan_jax.foundation import GplanError
from tests.chat.servers import SERVER, scripted

KEYS = [str(number) for number in range(4000)]


def script(**fields: Any) -> Script:
    return Script.model_validate_json(json.dumps(fields))


def test_faults_hit_their_share_of_the_requests_always_the_same_ones() -> None:
    plan = script(faults=[{"kind": "hang", "share": 0.1}, {"kind": "error", "share": 0.1}])
    hit = [delivery_fault(plan, key, "", 0) for key in KEYS]
    kinds = [fault.kind for fault in hit if fault]
    assert 300 < kinds.count("hang") < 500 and 260 < kinds.count("error") < 460
    assert hit == [delivery_fault(plan, key, "", 0) for key in KEYS]
    other = script(seed=1, faults=[{"kind": "hang", "share": 0.1}])
    assert [bool(fault) for fault in hit] != [bool(delivery_fault(other, k, "", 0)) for k in KEYS]


def test_faults_of_one_request_come_one_after_the_other() -> None:
    plan = script(
        faults=[
            {"kind": "error", "times": 2},
            {"kind": "short"},
            {"kind": "throttle", "match": "hello"},
        ]
    )

    def kinds(prompt: str) -> list[str | None]:
        faults = [delivery_fault(plan, "k", prompt, attempt) for attempt in range(4)]
        return [fault.kind if fault else None for fault in faults]

    assert kinds("say hello") == ["error", "error", "throttle", None]
    assert kinds("") == ["error", "error", None, None]
    fault = content_fault(plan, "k", "")
    assert fault is not None and fault.kind == "short"


def test_latencies_spread_around_the_mean() -> None:
    plan = script(latency_s=0.1, latency_spread=0.5)
    latencies = [latency_s(plan, key) for key in KEYS]
    assert 0.05 <= min(latencies) < 0.06 < 0.14 < max(latencies) <= 0.15


@given(st.text())
def test_the_default_answer_has_the_schema_and_is_a_function_of_the_prompt(prompt: str) -> None:
    schema = {
        "type": "object",
        "required": ["steps", "score", "sure", "kind", "note", "place"],
        "properties": {
            "steps": {"type": "array", "minItems": 2, "items": {"enum": ["a", "b"]}},
            "score": {"type": "integer", "minimum": 1, "maximum": 5},
            "sure": {"type": "boolean"},
            "kind": {"const": "plan"},
            "note": {"anyOf": [{"type": "null"}, {"type": "string", "minLength": 12}]},
            "place": {"$ref": "#/$defs/place"},
        },
        "$defs": {"place": {"type": "object", "properties": {"name": {"type": "string"}}}},
    }
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
    }
    text = default_responder(body)
    assert text == default_responder(body)
    value = json.loads(text)
    assert set(value) == set(schema["required"])
    assert len(value["steps"]) == 2 and set(value["steps"]) <= {"a", "b"}
    assert value["score"] in range(1, 6) and isinstance(value["sure"], bool)
    assert value["kind"] == "plan" and isinstance(value["place"]["name"], str)
    assert value["note"] is None or len(value["note"]) >= 12


def test_without_a_schema_there_is_still_an_answer() -> None:
    assert set(json.loads(default_responder({"messages": []}))) == {"answer"}
    assert example({"type": ["string", "null"]}, "s") == example({"type": "string"}, "s")


def test_responders_come_from_modules_and_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def answer(body):\n    return 'mine'\n")
    assert load_responder(f"{path}:answer")({}) == "mine"
    assert load_responder("scripted_server:default_responder") is default_responder
    for name in ("nothing", "no.such:thing", f"{path}:other", f"{tmp_path}/no.py:answer"):
        with pytest.raises(GplanError, match="Responder"):
            load_responder(name)


def test_help_shows_an_example_and_a_wrong_script_names_its_key(tmp_path: Path) -> None:
    command = [sys.executable, str(SERVER)]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert "example:" in shown.stdout and "--script script.json" in shown.stdout
    path = tmp_path / "script.json"
    path.write_text('{"latency": 1}')
    ended = subprocess.run([*command, "--script", str(path)], capture_output=True, text=True)
    assert ended.returncode == 2 and "did you mean latency_s" in ended.stderr


def test_it_survives_what_is_no_chat_request(tmp_path: Path) -> None:
    import httpx2

    with scripted(tmp_path) as server, httpx2.Client(trust_env=False) as client:
        post = f"{server.url}/chat/completions"
        assert client.post(post, content=b"not JSON").status_code == 400
        assert client.post(post, json=[1, 2]).status_code == 400
        assert client.post(post, json={"messages": 5}).status_code == 400
        assert client.post(post, content=iter([b"chunked"])).status_code == 411
        assert client.get(f"{server.url}/elsewhere").status_code == 404
        assert client.get(f"{server.url}/models").json()["data"] == [{"id": "scripted"}]
        answer = client.post(post, json={"messages": [{"role": "user", "content": None}]})
        assert answer.status_code == 200 and server.log()["requests"] == 4
