"""Rows with planted labels, predictions of them, and judges that ask a scripted server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.foundation.files import write_jsonl
from gplan_jax.gsisr import Plan, Sample, canonical_plan, write_samples
from tests.chat.servers import Server, scripted
from tests.gsisr.amap_intents import REMINDER, WEATHER, interest, ride, simple

RESPONDERS = Path(__file__).with_name("responders.py")
PLANTED = "PLANTED"
PLANS: tuple[Plan, ...] = (
    [ride("订单目的地"), simple(REMINDER), interest("订单目的地", "附近", "美食")],
    [simple(REMINDER), interest("当前位置", "商圈", "购物"), simple(WEATHER)],
    [simple(WEATHER), simple(REMINDER), interest("当前位置", "附近", "美食"), ride("订单目的地")],
)


def rows(count: int, **changes: str) -> list[Sample]:
    """Rows with different contexts; their labels hold a word that must never leave the machine."""
    return [
        Sample.from_context(
            {
                "id": f"{PLANTED}_ID_{n // 2}",
                "currenttime": f"2026-03-{1 + n % 28:02d} {n % 24:02d}:{n // 24 % 60:02d}:00",
                "current_city": "甲市",
                "current_poi_name": f"p_{n}",
                "trigger_1": "酒店",
                "trigger_2": "甲市",
                "trigger_6": "2026-03-09 00:00:00",
                "raw_labels": f"<THOUGHT>{PLANTED}_LABEL_{n}</THOUGHT>"
                f'[{{"工具名称":"{PLANTED}_LABEL_TOOL"}}]',
                **changes,
            }
        )
        for n in range(count)
    ]


def prediction(number: int, sample: Sample, plan: Plan) -> dict[str, Any]:
    """A line as gplan evaluate writes it, with planted words in all that must not be read."""
    thought = f"<THOUGHT>{PLANTED}_REASONING_{number}</THOUGHT>"
    return {
        "row": number,
        "id": sample.id,
        "text": thought + canonical_plan(plan),
        "plan": [{"工具名称": f"{PLANTED}_PLAN"}],
        "label": sample.raw_labels,
        "label_plan": [{"工具名称": f"{PLANTED}_LABEL_PLAN"}],
        "scores": {f"{PLANTED}_SCORE": 0.123456},
        "latent_failure": f"{PLANTED}_FAILURE",
        "violations": [],
        "floors": {f"{PLANTED}_FLOOR": f'[{{"工具名称":"{PLANTED}_FLOOR_TEXT"}}]'},
    }


def write_case(
    folder: Path, samples: list[Sample], plans: list[Plan] | None = None, name: str = "predictions"
) -> tuple[Path, Path]:
    """Writes the rows and the predictions of their plans; returns both files."""
    plans = plans or [PLANS[n % len(PLANS)] for n in range(len(samples))]
    data, predictions = folder / "test.csv", folder / f"{name}.jsonl"
    write_samples(data, samples)
    lines = zip(samples, plans, strict=True)
    write_jsonl(predictions, [prediction(n, s, p) for n, (s, p) in enumerate(lines, start=1)])
    return data, predictions


@dataclass(frozen=True)
class JudgeServer:
    """A running scripted server and the judge file that names it."""

    server: Server
    file: Path


Start = Callable[..., JudgeServer]


@pytest.fixture
def judge_server(tmp_path: Path) -> Iterator[Start]:
    """Starts a server by its script; ``client`` holds settings of the client."""
    with ExitStack() as stack:
        count = 0

        def start(
            script: dict[str, Any] | None = None,
            *,
            responder: str = "naive",
            client: dict[str, Any] | None = None,
            **judge: Any,
        ) -> JudgeServer:
            nonlocal count
            count += 1
            opened = scripted(
                tmp_path,
                responder=f"{RESPONDERS}:{responder}",
                name=f"script{count}",
                **script or {},
            )
            server = stack.enter_context(opened)
            config = server.config(**{"concurrency": 8, **(client or {})})
            path = tmp_path / f"judge{count}.yaml"
            values = {"server": config.model_dump(mode="json", exclude_defaults=True), **judge}
            path.write_text(json.dumps(values), encoding="utf-8")
            return JudgeServer(server, path)

        yield start


@contextmanager
def wire_tap(url: str) -> Iterator[tuple[str, list[bytes]]]:
    """A relay to the server at ``url`` that keeps every byte the client sends; yields its URL."""
    host, port = url.removeprefix("http://").split("/")[0].split(":")
    kept: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def relay(source: socket.socket, target: socket.socket, keep: bool) -> None:
        with suppress(OSError):
            while chunk := source.recv(65536):
                if keep:
                    kept.append(chunk)
                target.sendall(chunk)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((host, int(port)))
                for pair in ((client, server, True), (server, client, False)):
                    threading.Thread(target=relay, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", kept
    finally:
        listener.close()
