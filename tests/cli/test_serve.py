"""`gplan serve` as a user meets it: messages, signals, exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from gplan_jax.cli import main as command_line
from gplan_jax.foundation import GplanError
from gplan_jax.serving.planning.serve import display_name

FAKE_SERVE = Path(__file__).resolve().parents[1] / "serving" / "fake_serve.py"
SECRET = "7001234"


def serve(*options: object) -> None:
    """Runs the command in this process; GplanError is what main would print."""
    arguments = ["serve", *map(str, options)]
    CliRunner().invoke(command_line.app, arguments, catch_exceptions=False)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.02)


def status(url: str) -> int:
    """Status of a GET, 0 where nothing answers."""
    try:
        return httpx2.get(url, timeout=10).status_code
    except httpx2.TransportError:
        return 0


@contextmanager
def started(model: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command as a process with an engine that needs no model, and its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, str(FAKE_SERVE), "serve", "--model", str(model)),
            *("--port", str(port), "--service", "amap"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


def test_help_shows_an_example() -> None:
    shown = CliRunner().invoke(command_line.app, ["serve", "--help"]).output
    assert "Example: gplan serve --model" in shown and "Example: curl" in shown


def test_it_starts_serves_drains_and_ends_with_0(tiny_model_dir: Path) -> None:
    with started(tiny_model_dir, FAKE_LOAD_S="1") as (process, url):
        wait_for(lambda: status(f"{url}/healthz") == 200)
        assert status(f"{url}/readyz") == 503
        wait_for(lambda: status(f"{url}/readyz") == 200)
        answers: list[httpx2.Response] = []
        body = {"context": {"id": SECRET}}

        def ask() -> None:
            answers.append(httpx2.post(f"{url}/v1/plan", json=body, timeout=30))

        thread = threading.Thread(target=ask)
        thread.start()
        wait_for(lambda: "gplan_active_slots 1.0" in httpx2.get(f"{url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        thread.join()
        out, err = process.communicate(timeout=30)
    assert [answer.status_code for answer in answers] == [200]
    assert answers[0].json()["model"] == display_name(tiny_model_dir)
    assert process.returncode == 0
    assert f"Ready: {url} serves {display_name(tiny_model_dir)}, drafted, with 4 slots" in out
    assert "Stopped. Answered 1 requests" in out
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["event"] for line in lines if line["event"] != "request"] == ["ready", "draining"]
    assert SECRET not in err


@pytest.mark.slow
def test_an_engine_that_cannot_be_loaded_ends_the_server_with_its_message(
    tiny_model_dir: Path,
) -> None:
    with started(tiny_model_dir, FAKE_FAILURE="the weights are torn") as (process, _):
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.splitlines()[-1] == "error: the weights are torn"


def test_a_taken_port_is_named(tiny_model_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(GplanError, match=f"Port {port} of 127.0.0.1 is taken"):
            serve("--model", tiny_model_dir, "--port", port, "--service", "amap")


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(GplanError, match=str(tmp_path)):
        serve("--model", tmp_path)


@pytest.mark.parametrize(
    ("directory", "name"),
    [("runs/picd/model", "picd/model"), ("runs/picd/best", "picd/best"), ("qwen3-4b", "qwen3-4b")],
)
def test_a_model_is_called_by_what_tells_it_from_others(
    directory: str, name: str, tmp_path: Path
) -> None:
    assert display_name(tmp_path / directory) == name


@pytest.mark.parametrize(
    ("value", "problem"), [(None, "is not set"), ("", "is not set"), ("schlüssel", "visible ASCII")]
)
def test_a_key_that_no_client_could_send_is_refused(
    value: str | None, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PLAN_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("PLAN_KEY", value)
    with pytest.raises(GplanError, match=f"PLAN_KEY.*{problem}"):
        serve("--model", tmp_path, "--api-key-env", "PLAN_KEY")


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(GplanError, match=r"uvicorn.*pip install 'gplan-jax\[serve\]'"):
        serve("--model", tmp_path)


def test_an_experiment_that_adds_up_to_more_than_all_users_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "experiment.yaml"
    config.write_text("name: x\narms: {a: 0.6, b: 0.6}\ncontrol: a\n", encoding="utf-8")
    with pytest.raises(GplanError, match=r"experiment\.yaml.*\n.*add up to 1\.2"):
        serve("--model", tmp_path, "--experiment", config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arm", "gplna=x"], "--arm gplna: there is no such arm; name --experiment too"),
        (
            ["--experiment", "experiment.yaml", "--arm", "gplna=x"],
            "--arm gplna: there is no such arm; the arms are ctr, gplan",
        ),
        (
            ["--experiment", "experiment.yaml", "--arm", "gplan=x", "--arm", "gplan=y"],
            "--arm: two are called 'gplan'",
        ),
        (["--experiment", "experiment.yaml", "--arm", "gplan=nowhere"], "nowhere"),
    ],
)
def test_an_arm_that_is_none_is_named_before_anything_is_loaded(
    options: list[str],
    message: str,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "name: home\narms: {ctr: 0.5, gplan: 0.5}\ncontrol: ctr\n"
    Path("experiment.yaml").write_text(text, encoding="utf-8")
    named = ("--service", "amap", "--response", "latent")
    with pytest.raises(GplanError, match=message):
        serve("--model", tiny_model_dir, "--port", 0, *named, *options)


def test_labels_that_are_no_text_are_named(tmp_path: Path) -> None:
    labels = tmp_path / "labels.yaml"
    labels.write_text("labels: {act_7: 3}\n", encoding="utf-8")
    with pytest.raises(GplanError, match=r"labels\.yaml.*\n.*labels\.act_7"):
        serve("--model", tmp_path, "--labels", labels)
