"""Scripted chat servers for tests: a process of their own on a free port of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gplan_jax.chat import ChatConfig

SERVER = Path(__file__).resolve().parents[2] / "scripts" / "scripted_server.py"


@dataclass(frozen=True)
class Server:
    """A scripted server that is listening; ``url`` is its base URL, up to and with /v1."""

    url: str
    process: subprocess.Popen[str]

    def config(self, **fields: Any) -> ChatConfig:
        """A config for this server, quick to retry; ``fields`` replace what it says."""
        defaults: dict[str, Any] = {"base_url": self.url, "model": "scripted", "backoff_s": 0.002}
        return ChatConfig(**{**defaults, **fields})

    def log(self) -> dict[str, Any]:
        """The server's own account (GET /log): requests, asked, paid and sent by key ..."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.url.removesuffix("/v1") + "/log", timeout=10) as response:
            log: dict[str, Any] = json.load(response)
        return log


@contextmanager
def scripted(
    directory: Path, *, responder: str | None = None, name: str = "script", **script: Any
) -> Iterator[Server]:
    """Starts a scripted server and stops it at the end of the block.

    Args:
        directory: for the script's file, ``name``.json.
        responder: ``module:function`` (of ``scripts/`` too) or ``file.py:function``.
        script: the fields of ``scripts/scripted_server.py``.
    """
    path = directory / f"{name}.json"
    path.write_text(json.dumps(script), encoding="utf-8")
    command = [sys.executable, str(SERVER), "--until-eof"]
    command += ["--script", str(path)] + (["--responder", responder] if responder else [])
    # --until-eof: it ends with its stdin, so even if this process is killed.
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield Server(process.stdout.readline().strip(), process)
    finally:
        process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()
