"""Servers that a measurement starts on this machine, waits for, and stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from gplan_jax.foundation import GplanError

HOST = "127.0.0.1"
POLL_S = 0.2
STOP_S = 60.0
LOG_LINES = 15


@dataclass(frozen=True)
class LocalServer:
    """A server that is ready: where it answers, its process and its log."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


def serve_command(model_dir: Path, port: int, options: Sequence[str] = ()) -> list[str]:
    """The command line that serves a model on a local port; ``options`` are `gplan serve`'s."""
    serve = [sys.executable, "-m", "gplan_jax.cli.main", "serve", "--model", str(model_dir)]
    return [*serve, "--host", HOST, "--port", str(port), *options]


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def local_server(
    command: Callable[[int], Sequence[str]], log: Path, *, start_timeout_s: float = 900.0
) -> Iterator[LocalServer]:
    """Starts a server on a free port, yields it once ``/readyz`` says 200, always stops it.

    ``command`` is port -> command line, ``log`` takes all that the server prints. GplanError shows
    the end of the log where it ended or was not ready in time.
    """
    port = free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(
            list(command(port)),
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is ours: we stop the server, and in order.
        )
    try:
        server = LocalServer(f"http://{HOST}:{port}", process, log)
        wait_until_ready(server.url, start_timeout_s, server=server)
        yield server
    finally:
        # As an orchestrator ends a server: SIGTERM, time to drain, then SIGKILL.
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_ready(url: str, timeout_s: float, *, server: LocalServer | None = None) -> None:
    """Waits until ``/readyz`` answers 200; it is asked once at least.

    ``server`` is the one at ``url``, where it is ours: its end ends the waiting.
    """
    ends = time.monotonic() + timeout_s
    with httpx2.Client(base_url=url, timeout=5.0, trust_env=False) as client:
        while True:
            if server and (code := server.process.poll()) is not None:
                problem = f"The server ended with code {code} before it was ready."
                break
            try:
                response = client.get("/readyz")
                if response.status_code == httpx2.codes.OK:
                    return
                state = f"/readyz says {response.status_code}: {response.text[:200]}"
            except httpx2.HTTPError as error:
                state = f"it does not answer ({type(error).__name__})"
            if time.monotonic() + POLL_S > ends:
                problem = f"{url} was not ready within {timeout_s:.0f} s: {state}."
                break
            time.sleep(POLL_S)
    if server is not None:
        lines = server.log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
        shown = "\n".join(f"    {line}" for line in lines[-LOG_LINES:])
        end = f"The end of its log, {server.log}:\n{shown}"
        problem += f" {end}" if lines else f" Its log {server.log} is empty."
    raise GplanError(problem)
