"""Response times of several models under the same load, one server after the other: table 5.

A server is started on this machine, waited for, measured and stopped.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console, Group, RenderableType
from rich.text import Text

from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import refuse_existing, write_json, write_jsonl, write_text
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.foundation.tables import plain_text
from gplan_jax.gsisr import IntentLibrary, Sample
from gplan_jax.inference.engine.requests import DecodingMode
from gplan_jax.inference.prediction.predict import mode_of
from gplan_jax.serving.latency import latency_report as report
from gplan_jax.serving.latency import load_generator as load

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
    command: Callable[[int], Sequence[str]],
    log: Path,
    *,
    start_timeout_s: float = 900.0,
    ready_path: str = "/readyz",
) -> Iterator[LocalServer]:
    """Starts a server on a free port, yields it once ``ready_path`` says 200, always stops it.

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
        wait_until_ready(server.url, start_timeout_s, server=server, path=ready_path)
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


def wait_until_ready(
    url: str, timeout_s: float, *, server: LocalServer | None = None, path: str = "/readyz"
) -> None:
    """Waits until ``path`` answers 200; it is asked once at least.

    ``server`` is the one at ``url``, where it is ours: its end ends the waiting.
    """
    ends = time.monotonic() + timeout_s
    with httpx2.Client(base_url=url, timeout=5.0, trust_env=False) as client:
        while True:
            if server and (code := server.process.poll()) is not None:
                problem = f"The server ended with code {code} before it was ready."
                break
            try:
                response = client.get(path)
                if response.status_code == httpx2.codes.OK:
                    return
                state = f"{path} says {response.status_code}: {response.text[:200]}"
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


RESULTS, TABLES, LOG = "latency.json", "latency.txt", "server.log"
FREE = "-free"  # after the name of a model that is also measured unconstrained
READY_S = 10.0  # a server that is said to run already must be ready at once, or nearly


@dataclass(frozen=True)
class LoadPlan:
    """The load that every model is given."""

    qps: tuple[float, ...] = (10.0,)  # rates, requests a second; each is a run of its own
    duration_s: float = 30.0  # of each run
    deadline_ms: float | None = None  # sent with every request; goodput is measured by it
    seed: int = 0  # of the arrival times, the same for all models
    warmup: int = 20  # requests before the first run, one by one; not counted
    timeout_s: float = 120.0  # after which a request counts as unanswered


def compare_latency(
    models: Mapping[str, Path],
    samples: Sequence[Sample],
    out: Path,
    plan: LoadPlan,
    *,
    modes: Mapping[str, DecodingMode] | None = None,
    replicas: Sequence[int] = (1,),
    serve_options: Sequence[str] = (),
    start_timeout_s: float = 900.0,
) -> dict[str, Any]:
    """Serves each model, sends it the plan's load, stops it; writes figures and tables to ``out``.

    The paper decodes all arms alike, greedily. So a model that the grammar or drafts speed up is
    also measured unconstrained, as ``NAME-free``: only such rows give ratios like the paper's.
    ``modes`` names the one mode of a model to measure instead. All of it is measured with each
    number of ``replicas``, N of them as ``NAME-xN``. Every run takes the samples in order.

    Returns:
        What stands in OUT/latency.json: "ran_on", "load", and "models": name -> its directory,
        mode and "runs": QPS -> ``summarize``.
    """
    refuse_existing(out)
    modes = modes or {}
    if unknown := [name for name in modes if name not in models]:
        raise GplanError(f"--mode names {', '.join(unknown)}; the models are {', '.join(models)}.")
    arms: dict[str, tuple[Path, DecodingMode, int]] = {}
    for name, folder in models.items():
        decoded = {name: modes.get(name) or mode_of(GsisrTask.load(folder))}
        if name not in modes and decoded[name] != "unconstrained":
            decoded[name + FREE] = "unconstrained"
        for count in replicas:
            for arm, mode in decoded.items():
                key = arm if count == 1 else f"{arm}-x{count}"
                if key in ("", ".", "..", RESULTS, TABLES, *arms) or {"/", "\\"} & set(key):
                    raise GplanError(f"{key!r} can't name a model's folder; use NAME=DIR.")
                arms[key] = folder, mode, count
    results: dict[str, Any] = {"ran_on": report.machine(), "load": asdict(plan), "models": {}}
    for name, (folder, mode, count) in arms.items():
        # The server gives up on no request before its client does.
        patience = ["--deadline-ms", str(round(plan.timeout_s * 1000))]
        options = ["--mode", mode, *patience, *serve_options]
        options += ["--replicas", str(count)] if count > 1 else []
        command = partial(serve_command, folder, options=options)
        log = out / name / LOG
        started = f"{name}: gplan serve loads {folder} and compiles; its log is {log}"
        Console(stderr=True).print(started, highlight=False, markup=False, soft_wrap=True)
        with local_server(command, log, start_timeout_s=start_timeout_s) as server:
            runs = asyncio.run(load_server(server.url, name, samples, plan, out / name))
        results["models"][name] = {
            "model": str(folder),
            "mode": mode,
            "replicas": count,
            "serve_options": list(serve_options),
            "runs": runs,
        }
        write_results(out, results)
    return results


def measure_running(
    url: str, samples: Sequence[Sample], out: Path, plan: LoadPlan, *, api_key: str | None = None
) -> dict[str, Any]:
    """As ``compare_latency`` for one server that runs already; it is not stopped."""
    refuse_existing(out)
    wait_until_ready(url, READY_S)
    runs = asyncio.run(load_server(url, "server", samples, plan, out / "server", api_key=api_key))
    results = {
        "ran_on": report.machine(),
        "load": asdict(plan),
        "models": {"server": {"url": url, "runs": runs}},
    }
    write_results(out, results)
    return results


async def load_server(
    url: str,
    name: str,
    samples: Sequence[Sample],
    plan: LoadPlan,
    out: Path,
    *,
    api_key: str | None = None,
) -> dict[str, report.RunFigures]:
    """Warms a server up and sends it one run for each rate; QPS as text -> ``summarize``.

    Every exchange goes to OUT/qps_RATE.jsonl. An unanswered request of the warm-up is a GplanError.
    """
    bodies = load.plan_bodies(samples, deadline_ms=plan.deadline_ms)
    summaries: dict[str, report.RunFigures] = {}
    async with load.http_sender(
        url, path=load.PLAN_PATH, timeout_s=plan.timeout_s, api_key=api_key
    ) as send:
        await warm_up(send, bodies[: plan.warmup], url)
        taken = plan.warmup
        for qps in plan.qps:
            schedule_s = load.poisson_schedule(qps, plan.duration_s, plan.seed)
            failed = 0
            with ProgressBar(f"{name} at {qps:g} QPS", len(schedule_s)) as bar:

                def ended(exchange: load.Exchange, bar: ProgressBar = bar) -> None:
                    nonlocal failed
                    failed += not exchange.answered
                    bar.advance(f"{failed} not answered" if failed else "")

                # Other bodies than before, so that runs don't meet what a cache still holds.
                fresh = islice(cycle(bodies), taken, None)
                exchanges = await load.send_on_schedule(send, fresh, schedule_s, ended=ended)
            taken += len(schedule_s)
            summaries[f"{qps:g}"] = report.summarize(
                exchanges, duration_s=plan.duration_s, deadline_ms=plan.deadline_ms
            )
            write_jsonl(out / f"qps_{qps:g}.jsonl", map(load.exchange_row, exchanges))
    return summaries


async def warm_up(send: load.Send, bodies: Iterable[bytes], url: str) -> None:
    """Sends some requests one after the other; GplanError where one is not answered."""
    for body in bodies:
        reply = await send(body)
        if reply.status != load.OK:
            said = reply.body.decode("utf-8", errors="replace")[:300] or reply.problem
            raise GplanError(
                f"{url} did not answer the first requests ({reply.status or 'no answer'}: {said})."
            )


def contexts_needed(plan: LoadPlan) -> int:
    """About how many different contexts the warm-up and all runs together send."""
    return plan.warmup + sum(round(qps * plan.duration_s) for qps in plan.qps)


def simulated_contexts(plan: LoadPlan, library: IntentLibrary, *, most: int = 5000) -> list[Sample]:
    """Contexts of the service's world, enough that none comes twice, of users that nothing was
    trained on; GplanError where the service has no world.
    """
    from gplan_jax.synthesis.world.data_world import world_contexts

    contexts = world_contexts(library, plan.seed, others=True)
    return list(islice(contexts, min(most, contexts_needed(plan))))


def write_results(out: Path, results: Mapping[str, Any]) -> None:
    """Writes OUT/latency.json and OUT/latency.txt."""
    write_json(out / RESULTS, results)
    write_text(out / TABLES, plain_text(latency_view(results)))


def latency_view(results: Mapping[str, Any]) -> RenderableType:
    """The tables of a comparison, what they were measured on, and what limits them."""
    models = results["models"]
    runs = {
        f"{name}, {qps} QPS": summary
        for name, model in models.items()
        for qps, summary in model["runs"].items()
    }
    by_model = {name: model["runs"] for name, model in models.items()}
    return Group(
        report.latency_table(by_model, title="Response times (as in the paper's table 5)"),
        report.waiting_table(runs, title="Every run; latencies count from the intended send time"),
        report.server_table(runs, title="What the server says, means of the answered requests"),
        *report.warning_lines(runs),
        Text(report.describe_machine(results["ran_on"])),
    )
