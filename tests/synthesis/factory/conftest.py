"""A scripted chat server in a process of its own, and a teacher file that names it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

REHEARSAL = "gplan_jax.synthesis.teachers.rehearsal:reply"


class Server:
    """A running server: its teacher file, and what it has seen."""

    def __init__(self, url: str, teacher: Path) -> None:
        self.url, self.teacher = url, teacher

    def log(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/log") as answer:
            log: dict[str, Any] = json.load(answer)
        return log


Start = Callable[..., Server]


@contextmanager
def _server(
    folder: Path, script: dict[str, Any], responder: str, **client: Any
) -> Iterator[Server]:
    folder.mkdir()
    (folder / "script.json").write_text(json.dumps(script), encoding="utf-8")
    command = [sys.executable, "-m", "gplan_jax.chat.scripted_server", "--until-eof"]
    command += ["--script", str(folder / "script.json"), "--responder", responder]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        server = {"base_url": url, "model": "scripted", "concurrency": 8, "backoff_s": 0.01}
        server |= {"prompt_price": 1.0, "completion_price": 2.0, **client}
        (folder / "teacher.yaml").write_text(json.dumps({"server": server}), encoding="utf-8")
        yield Server(url, folder / "teacher.yaml")
    finally:
        process.stdin.close()
        process.wait(timeout=10)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Start]:
    """Starts a server by its script; keyword arguments are the client's settings."""
    with ExitStack() as stack:
        count = 0

        def start(
            script: dict[str, Any] | None = None, responder: str = REHEARSAL, **client: Any
        ) -> Server:
            nonlocal count
            count += 1
            opened = _server(tmp_path / f"server{count}", script or {}, responder, **client)
            return stack.enter_context(opened)

        yield start
