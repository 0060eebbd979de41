"""Servers that a measurement starts: waited for, stopped, and explained where they fail."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.serving.latency import latency_study as servers
from gplan_jax.serving.latency.latency_study import local_server, serve_command, wait_until_ready

PLAIN_SERVER = Path(__file__).parents[1] / "plain_server.py"


def plain(*options: str) -> Callable[[int], list[str]]:
    return lambda port: [sys.executable, "-S", str(PLAIN_SERVER), str(port), *options]


def test_a_server_is_ready_inside_and_gone_after(tmp_path: Path) -> None:
    log = tmp_path / "new" / "server.log"
    with local_server(plain("--starts-after", "2"), log) as server:
        assert httpx2.get(f"{server.url}/readyz").status_code == 200
        assert server.process.poll() is None
    assert server.process.poll() is not None
    assert log.read_text() == "started\n"


def test_a_server_is_stopped_when_the_measurement_fails(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        local_server(plain(), tmp_path / "server.log") as server,
    ):
        _ = 1 / 0
    assert server.process.poll() is not None


def test_a_server_that_does_not_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with (
        pytest.raises(GplanError, match="ended with code 1") as failure,
        local_server(plain("--dies"), log),
    ):
        pass
    assert str(log) in str(failure.value)
    assert "error: there is no model here" in str(failure.value)


def test_a_server_that_is_not_ready_in_time_is_named_with_what_it_said(tmp_path: Path) -> None:
    with (
        pytest.raises(GplanError, match=r"not ready within 3 s: /readyz says 503"),
        local_server(plain("--starts-after", "1000"), tmp_path / "log", start_timeout_s=2.8),
    ):
        pass


def test_a_server_that_will_not_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "STOP_S", 0.2)
    with local_server(plain("--deaf"), tmp_path / "log") as server:
        pass
    assert server.process.returncode == -9


def test_nobody_at_the_address_is_told() -> None:
    url = f"http://127.0.0.1:{servers.free_port()}"
    with pytest.raises(GplanError, match=r"does not answer \(ConnectError"):
        wait_until_ready(url, 0.1)


def test_a_model_is_served_on_this_machine_alone(tmp_path: Path) -> None:
    command = serve_command(tmp_path, 8123, ["--slots", "4"])
    assert command[1:] == [
        "-m", "gplan_jax.cli.main", "serve", "--model", str(tmp_path), "--host", "127.0.0.1",
        "--port", "8123", "--slots", "4",
    ]  # fmt: skip
