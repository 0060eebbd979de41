"""The review app over HTTP: what it takes, what it refuses, and that nothing is lost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from reviews import ROWS, serving, store_of, write_review_of

from gplan_jax.serving.review.review_app import ReviewStore, create_review_app, end_message
from gplan_jax.synthesis.seeds.review_file import read_review

BASE = "http://127.0.0.1:8010"
OWN = {"Origin": BASE}


@pytest.fixture
def store(tmp_path: Path) -> ReviewStore:
    return store_of(write_review_of(tmp_path))


@asynccontextmanager
async def client_of(store: ReviewStore, base: str = BASE) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(create_review_app(store))
    async with httpx2.AsyncClient(transport=transport, base_url=base) as client:
        yield client


def call(store: ReviewStore, method: str, path: str, **options: Any) -> httpx2.Response:
    """One request to the app."""

    async def send() -> httpx2.Response:
        async with client_of(store) as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


def body_of(store: ReviewStore, row: int, verdict: str, **changes: Any) -> dict[str, Any]:
    state = call(store, "GET", "/api/review").json()["candidates"][row - 1]["state"]
    return {k: v for k, v in state.items() if k != "faults"} | {"verdict": verdict} | changes


def put(store: ReviewStore, row: int, body: Any, headers: Any = OWN) -> httpx2.Response:
    return call(store, "PUT", f"/api/decisions/{row}", json=body, headers=headers)


def test_the_page_gets_everything_it_shows(store: ReviewStore) -> None:
    answer = call(store, "GET", "/api/review").json()
    assert (answer["reviewer"], answer["file"]) == ("anna", "review.anna.csv")
    assert len(answer["candidates"]) == ROWS and answer["blocks"] == ["CONTEXT", "STRATEGY"]
    for candidate, shown in zip(store.candidates, answer["candidates"], strict=True):
        assert (
            shown["row"] == candidate.row and shown["proposal"]["plan"] == candidate.proposal.plan
        )
        assert shown["state"]["verdict"] == "" and shown["state"]["faults"] == []
    assert answer["library"]["parameters"]["tag"]["values"]["美食"]
    assert answer["library"]["tools"]["tool_7"]["parameters"] == ["tag"]


def test_decisions_are_taken_and_kept(store: ReviewStore) -> None:
    response = put(store, 2, body_of(store, 2, "reject", comment=" no \n good "))
    assert response.status_code == 200 and response.json()["verdict"] == "reject"
    saved = read_review(store.path, store.candidates, store.library)[1]
    assert (saved.verdict, saved.comment, saved.reviewer) == ("reject", "no \n good", "anna")


def test_faults_come_back_with_a_draft(store: ReviewStore) -> None:
    plan = [
        {"工具名称": "tool_1", "起始位置": "当前位置", "终点位置": "家"},
        {"工具名称": "tool_4"},
    ]
    response = put(store, 1, body_of(store, 1, "", plan=plan))
    faults = response.json()["faults"]
    assert {fault["tier"] for fault in faults} == {"format", "logic", "reasoning"}
    assert next(fault["step"] for fault in faults if fault["tier"] == "reasoning") == 3
    refused = put(store, 1, body_of(store, 1, "edit", plan=plan))
    assert refused.status_code == 422 and refused.json()["error"]["code"] == "not_a_seed"


def test_a_change_on_top_of_another_is_a_conflict(store: ReviewStore) -> None:
    body = body_of(store, 1, "accept")
    assert put(store, 1, body).status_code == 200
    response = put(store, 1, body | {"verdict": "reject"})
    assert response.status_code == 409 and response.json()["error"]["code"] == "outdated"
    assert response.json()["error"]["state"]["verdict"] == "accept"


@pytest.mark.parametrize(
    ("row", "changes", "status"),
    [
        (0, {}, 404),
        (ROWS + 1, {}, 404),
        (1, {"verdict": "maybe"}, 422),
        (1, {"plan": "[]"}, 422),
        (1, {"plan": [{"工具名称": 8}]}, 422),
        (1, {"plan": [{}] * 51}, 422),
        (1, {"reasoning": {"STEP_99": "x"}}, 422),
        (1, {"reasoning": {"CONTEXT": "x" * 4001}}, 422),
        (1, {"comment": "a\0b"}, 422),
        (1, {"reviewer": "bo"}, 422),
        (1, {"id": "u9"}, 422),
    ],
)
def test_what_is_no_decision_is_refused(
    store: ReviewStore, row: int, changes: dict[str, Any], status: int
) -> None:
    before = store.path.read_bytes()
    response = put(store, row, body_of(store, 1, "accept") | changes)
    assert response.status_code == status and response.json()["error"]["message"]
    assert store.path.read_bytes() == before


def test_bodies_that_are_no_json_are_refused(store: ReviewStore) -> None:
    def send(content: bytes, kind: str = "application/json") -> int:
        headers = OWN | {"Content-Type": kind}
        return call(store, "PUT", "/api/decisions/1", content=content, headers=headers).status_code

    assert send(b"{") == 400 and send(b"[]") == 422 and send(b"\xff") == 400
    # What a form of another site could send without asking first.
    assert send(b"{}", "text/plain") == 415
    assert send(b"x" * (256 * 1024 + 1)) == 413


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8010", "127.0.0.1.evil.example:8010", "192.168.0.7:8010",
     "localhost.evil:8010", "127.0.0.1:8010@evil", "[::2]:8010", "", "127.0.0.1:80x"],
)  # fmt: skip
def test_other_hosts_get_nothing(store: ReviewStore, host: str) -> None:
    for path in ("/", "/api/review", "/page/style.css"):
        response = call(store, "GET", path, headers={"Host": host})
        assert response.status_code == 403 and "u1" not in response.text


@pytest.mark.parametrize("host", ["127.0.0.1:8010", "localhost:9999", "LOCALHOST:1", "[::1]:8010"])
def test_names_of_this_machine_are_let_in(store: ReviewStore, host: str) -> None:
    # Another port is what a tunnel shows.
    assert call(store, "GET", "/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8011"},
        {"Origin": "https://127.0.0.1:8010"},
        {"Origin": BASE, "Sec-Fetch-Site": "cross-site"},
        {"Origin": BASE, "Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_origins_can_change_nothing(
    store: ReviewStore, headers: dict[str, str]
) -> None:
    before = store.path.read_bytes()
    response = put(store, 1, body_of(store, 1, "accept"), headers)
    assert response.status_code == 403 and response.json()["error"]["code"] == "wrong_origin"
    assert store.path.read_bytes() == before


def test_other_sites_can_read_nothing(store: ReviewStore) -> None:
    response = call(store, "GET", "/api/review", headers={"Sec-Fetch-Site": "cross-site"})
    assert response.status_code == 403
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}
    assert call(store, "OPTIONS", "/api/decisions/1", headers=asked).status_code == 403
    allowed = call(store, "GET", "/api/review", headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in allowed.headers


@pytest.mark.parametrize("path", ["/", "/review.js", "/api/review", "/none"])
def test_every_answer_carries_the_policy(store: ReviewStore, path: str) -> None:
    headers = call(store, "GET", path).headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "'unsafe" not in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_the_stylesheet_is_the_planners_own(store: ReviewStore) -> None:
    import gplan_jax.serving.review.review_app as module

    sheet = Path(module.__file__).parents[1] / "http" / "page" / "style.css"
    assert call(store, "GET", "/page/style.css").content == sheet.read_bytes()


@pytest.mark.parametrize("path", ["/page/index.html", "/..%2freview.py", "/rows.csv"])
def test_no_other_file_is_served(store: ReviewStore, path: str) -> None:
    assert call(store, "GET", path).status_code == 404


def test_no_page_names_a_foreign_resource(store: ReviewStore) -> None:
    for path in ("/", "/review.js", "/card.js", "/outbox.js", "/dom.js", "/review.css"):
        text = call(store, "GET", path).text
        assert not re.search(r"(?:https?:)?//[\w-]+\.\w", text), path
        assert "innerHTML" not in text and "style=" not in text and "onclick=" not in text


def test_a_disk_that_is_full_is_said(store: ReviewStore, monkeypatch: pytest.MonkeyPatch) -> None:
    body = body_of(store, 1, "accept")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    response = put(store, 1, body)
    assert response.status_code == 500 and "No space left" in response.json()["error"]["message"]


def test_a_server_on_a_socket_saves_and_stops(tmp_path: Path) -> None:
    review = write_review_of(tmp_path)
    with serving(review) as served:
        url = f"{served.url}/api/decisions/3"
        body = body_of(served.store, 3, "accept")
        assert httpx2.put(url, json=body, headers={"Origin": served.url}).status_code == 200
        refused = httpx2.put(url, json=body, headers={"Origin": "http://evil.example"})
        assert refused.status_code == 403
    assert "1 of 8 candidates are decided (1 accept, 0 edit, 0 reject)" in end_message(
        store_of(review), review
    )


def start(review: Path) -> tuple[subprocess.Popen[str], str]:
    """The command in a process of its own, and its address."""
    command = [sys.executable, "-m", "gplan_jax.cli.main", "seeds", "review", review.name]
    process = subprocess.Popen(
        [*command, "--reviewer", "anna", "--port", "0"],
        cwd=review.parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = re.search(r"http://\S+", process.stdout.readline())
    assert address is not None
    return process, address[0].rstrip("/")


def test_a_killed_server_loses_nothing_and_a_stopped_one_says_where_the_result_is(
    tmp_path: Path,
) -> None:
    review = write_review_of(tmp_path)
    process, url = start(review)
    for row in (1, 2, 3):
        state = httpx2.get(f"{url}/api/review").json()["candidates"][row - 1]["state"]
        body = {k: v for k, v in state.items() if k != "faults"} | {"verdict": "accept"}
        headers = {"Origin": url}
        response = httpx2.put(f"{url}/api/decisions/{row}", json=body, headers=headers)
        assert response.status_code == 200
    process.kill()
    process.communicate(timeout=20)
    process, url = start(review)
    states = [c["state"]["verdict"] for c in httpx2.get(f"{url}/api/review").json()["candidates"]]
    assert states == ["accept"] * 3 + [""] * 5
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Stopped. 3 of 8 candidates are decided" in said and "review.anna.csv" in said
    assert "gplan seeds import review.anna.csv" in said
