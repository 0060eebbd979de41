"""Load figures of one served model: steady traffic, ten times too much, clients that hang up.

    python scripts/bench_serve.py --model runs/quickstart/picd/model --out runs/bench_serve

Starts `gplan serve` on a free local port (or any server that --command names, {port} filled in) and
stops it at the end. In turn:

steady    --steady-qps for --steady-s seconds; no request may fail.
overload  finds the rate that the server sustains (no refusal, deadline met), then sends ten times
          that for --overload-s seconds and the half of it for --recovery-s more. It must not crash,
          its memory must stay flat, refusals must come at once, what it answers must be in time,
          and it must be back to its normal latency within seconds.
hang_up   --hang-ups clients go away in the middle of their request, some in the middle of sending
          it; no slot may stay taken, and later requests must be answered.
reload    --reloads times the model is loaded anew and takes over, at --steady-qps; no request may
          fail. Not among the parts by default, and only for `gplan serve`.
replica   one of several engines fails in the middle of --replica-s seconds at --replica-qps; no
          request may fail, and /readyz and the metrics must tell. Not among the parts by default,
          only for `gplan serve` with --replicas, and the last one: the engine stays lost. Without
          several devices: XLA_FLAGS=--xla_force_host_platform_device_count=2.

Prints one line of JSON with figures, verdicts and what it ran on. Latencies count from the intended
send times, docs/latency.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import shlex
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from bench_serve_faulty import HELD
from bench_serve_verdicts import flatness, recovery_seconds, sustains, verdicts
from prometheus_client.parser import text_string_to_metric_families

from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.gsisr import IntentLibrary, read_samples
from gplan_jax.serving.latency.latency_report import machine, summarize
from gplan_jax.serving.latency.latency_study import (
    LoadPlan,
    LocalServer,
    local_server,
    serve_command,
    simulated_contexts,
    warm_up,
)
from gplan_jax.serving.latency.load_generator import (
    PLAN_PATH,
    Exchange,
    Send,
    http_sender,
    plan_bodies,
    poisson_schedule,
    read_exchange,
    send_on_schedule,
)

PARTS = ("steady", "overload", "hang_up")  # by default
MORE_PARTS = ("reload", "replica")
FAULTY_SERVE = Path(__file__).parent / "bench_serve_faulty.py"
POLL_S = 0.05
ADMIN_KEY = "GPLAN_BENCH_ADMIN_KEY"
MIB = 2**20
OVERLOAD = 10  # times the sustainable rate
FIRST_GUESS, STEP_DOWN, MOST_TRIALS = 0.9, 0.85, 10
SAMPLE_S = 0.5
METRICS_S = 60.0  # a server that was just overloaded may take its time
FREE_S = 10.0  # within which all slots must be free again


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, help="model directory to serve")
    add("--command", help="another server instead: a command line with {port}")
    add("--serve", default="", help="more options for `gplan serve`, e.g. '--slots 4'")
    add("--data", type=Path, help="rows to plan for; else simulated ones")
    add("--contexts", type=int, default=2000, help="how many different ones are sent")
    add("--out", type=Path, help="directory of the server's log; else a temporary one")
    add("--parts", default=",".join(PARTS), help="which, and in this order")
    add("--deadline-ms", type=float, default=5000.0, help="sent with every request")
    add("--steady-qps", type=float, default=10.0)
    add("--steady-s", type=float, default=600.0)
    add("--trial-s", type=float, default=15.0, help="of each rate that is tried")
    add("--overload-s", type=float, default=60.0)
    add("--recovery-s", type=float, default=20.0)
    add("--hang-ups", type=int, default=200)
    add("--reloads", type=int, default=50)
    add("--replica-qps", type=float, default=10.0)
    add("--replica-s", type=float, default=60.0)
    add("--seed", type=int, default=0)
    options = parser.parse_args()
    if bool(options.model) == bool(options.command):
        parser.error("name either --model or --command")
    options.parts = options.parts.split(",")
    if unknown := {*options.parts} - {*PARTS, *MORE_PARTS}:
        known = ", ".join((*PARTS, *MORE_PARTS))
        parser.error(f"--parts knows {known}, not {', '.join(sorted(unknown))}")
    if "replica" in options.parts[:-1]:
        parser.error("replica must be the last part: the engine that fails stays lost")
    if options.command and {*MORE_PARTS} & {*options.parts}:
        parser.error(f"{' and '.join(MORE_PARTS)} need --model")
    return options


@dataclass(frozen=True)
class Bench:
    """A server under test and what is sent to it."""

    server: LocalServer
    send: Send
    bodies: Sequence[bytes]
    options: argparse.Namespace

    async def run(self, title: str, schedule_s: np.ndarray) -> list[Exchange]:
        """Sends a schedule, with a progress bar."""
        with ProgressBar(title, len(schedule_s)) as bar:
            return await send_on_schedule(
                self.send, self.bodies, schedule_s, ended=lambda _: bar.advance()
            )

    def poisson(self, qps: float, duration_s: float) -> np.ndarray:
        return poisson_schedule(qps, duration_s, self.options.seed)

    def summary(self, exchanges: Sequence[Exchange], duration_s: float) -> dict[str, Any]:
        deadline_ms = self.options.deadline_ms
        return summarize(exchanges, duration_s=duration_s, deadline_ms=deadline_ms)

    async def metrics(self) -> dict[str, float]:
        """The server's metrics: name, and label values where it has some -> value."""
        async with httpx2.AsyncClient(
            base_url=self.server.url, trust_env=False, timeout=METRICS_S
        ) as client:
            text = (await client.get("/metrics")).text
        return {
            " ".join([sample.name, *sample.labels.values()]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


async def measure(server: LocalServer, options: argparse.Namespace) -> dict[str, Any]:
    """All parts in turn; name -> figures."""
    samples = (
        list(islice(read_samples(options.data), options.contexts))
        if options.data
        else simulated_contexts(LoadPlan(warmup=options.contexts, qps=()), IntentLibrary.load())
    )
    bodies = plan_bodies(samples, deadline_ms=options.deadline_ms)
    parts: dict[str, Callable[[Bench], Awaitable[dict[str, Any]]]] = {
        "steady": steady,
        "overload": overload,
        "hang_up": hang_up,
        "reload": reload,
        "replica": replica,
    }
    async with http_sender(
        server.url, path=PLAN_PATH, timeout_s=4 * options.deadline_ms / 1000
    ) as send:
        bench = Bench(server, send, bodies, options)
        await warm_up(send, bodies[:20], server.url)
        return {name: await parts[name](bench) for name in options.parts}


async def steady(bench: Bench) -> dict[str, Any]:
    """Poisson traffic at a given rate."""
    qps, seconds = bench.options.steady_qps, bench.options.steady_s
    async with resident_memory(bench.server.process.pid) as memory:
        exchanges = await bench.run(f"{qps:g} QPS", bench.poisson(qps, seconds))
    return {**bench.summary(exchanges, seconds), "memory": flatness(memory)}


async def overload(bench: Bench) -> dict[str, Any]:
    """Ten times the sustainable rate, and what comes after."""
    options = bench.options
    slots = int((await bench.metrics()).get("gplan_slots", 8))
    closed_loop_qps, sustainable_qps = await find_sustainable(bench, clients=2 * slots)
    calm_qps = sustainable_qps / 2
    calm = await bench.run("before", bench.poisson(calm_qps, options.recovery_s))
    normal = bench.summary(calm, options.recovery_s)
    flood_s = bench.poisson(OVERLOAD * sustainable_qps, options.overload_s)
    after_s = options.overload_s + bench.poisson(calm_qps, options.recovery_s)
    async with resident_memory(bench.server.process.pid) as memory:
        title = f"{OVERLOAD * sustainable_qps:.0f} QPS"
        exchanges = await bench.run(title, np.concatenate([flood_s, after_s]))
    flood, after = exchanges[: len(flood_s)], exchanges[len(flood_s) :]
    during = [sample for sample in memory if sample[0] <= options.overload_s]
    return {
        "closed_loop_qps": closed_loop_qps,
        "sustainable_qps": sustainable_qps,
        "normal": normal,
        "flood": bench.summary(flood, options.overload_s),
        "after": bench.summary(after, options.recovery_s),
        "late_by_service_time": sum(
            e.answered and e.service_ms > options.deadline_ms for e in flood
        ),
        "recovery_s": recovery_seconds(
            after, since_s=options.overload_s, normal_ms=normal["latency_ms"]["p95"]
        ),
        "memory": flatness(during),
        "alive": bench.server.process.poll() is None,
    }


async def find_sustainable(bench: Bench, *, clients: int) -> tuple[float, float]:
    """Requests a second in a closed loop, and the highest open-loop rate below that is sustained.

    An open loop at a closed loop's rate has an ever longer queue, so the search begins below it and
    steps down until a trial has no failure and meets the deadline.
    """
    seconds = bench.options.trial_s
    done = await send_in_turn(bench.send, cycle(bench.bodies), clients=clients, duration_s=seconds)
    ends = max(exchange.ended_s for exchange in done)
    closed_loop_qps = sum(exchange.answered for exchange in done) / ends
    rate = FIRST_GUESS * closed_loop_qps
    for _ in range(MOST_TRIALS):
        exchanges = await bench.run(f"trial at {rate:.1f} QPS", bench.poisson(rate, seconds))
        if sustains(bench.summary(exchanges, seconds)):
            return closed_loop_qps, rate
        rate *= STEP_DOWN
    sys.exit(
        f"error: no rate down to {rate:.2f} QPS is sustained; allow for a longer --deadline-ms"
    )


async def send_in_turn(
    send: Send, bodies: Iterator[bytes], *, clients: int, duration_s: float
) -> list[Exchange]:
    """A closed loop: each client sends its next request as soon as it has an answer.

    It finds out how much a server can do, never how long users wait for it.
    """
    clock = asyncio.get_running_loop().time
    start = clock()
    exchanges: list[Exchange] = []

    async def client() -> None:
        while (sent := clock() - start) < duration_s:
            reply = await send(next(bodies))
            exchanges.append(read_exchange(reply, sent, sent, clock() - start))

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return exchanges


async def hang_up(bench: Bench) -> dict[str, Any]:
    """Clients that go away at random moments; what the server holds afterwards."""
    count = bench.options.hang_ups
    generator = random.Random(bench.options.seed)
    before = await bench.metrics()
    room = int(before["gplan_slots"] + before["gplan_queue_limit"] // 2)
    free = asyncio.Semaphore(max(1, room))
    alone = [await send_once(bench) for _ in range(5)]
    longest_s = 2 * max(exchange.service_ms for exchange in alone) / 1000

    async def client(body: bytes) -> None:
        async with free:
            await vanish(bench.server.url, body, generator, longest_s)

    await asyncio.gather(*(client(body) for body in islice(cycle(bench.bodies), count)))
    clock = asyncio.get_running_loop().time
    gone = clock()
    while (held := await slots_held(bench)) and clock() - gone < FREE_S:
        await asyncio.sleep(0.05)
    free_s = clock() - gone
    after = await bench.metrics()
    later = await bench.run("afterwards", np.zeros(int(before["gplan_slots"]) * 2))
    return {
        "clients": count,
        "held_after": held,
        "free_after_s": round(free_s, 3),
        "cancelled": _grown(before, after, "gplan_engine_requests_total cancelled"),
        "answered_to_nobody": _grown(before, after, "gplan_engine_requests_total answered"),
        "later": bench.summary(later, 1.0),
        "alive": bench.server.process.poll() is None,
    }


async def reload(bench: Bench) -> dict[str, Any]:
    """Traffic while one model after another takes over."""
    qps, count = bench.options.steady_qps, bench.options.reloads
    headers = {"Authorization": f"Bearer {os.environ[ADMIN_KEY]}"}
    seconds, exchanges = list[float](), list[Exchange]()
    ended, clock = asyncio.Event(), asyncio.get_running_loop().time
    start = clock()

    async def traffic() -> None:
        while not ended.is_set():
            exchanges.extend(await bench.run(f"{qps:g} QPS, reloading", bench.poisson(qps, 10.0)))

    async with asyncio.TaskGroup() as group:
        group.create_task(traffic())
        async with httpx2.AsyncClient(
            base_url=bench.server.url, headers=headers, trust_env=False, timeout=600
        ) as client:
            for _ in range(count):
                answer = await client.post("/admin/reload", json={})
                if answer.status_code != 200:
                    sys.exit(f"error: a reload failed: {answer.text}")
                seconds.append(answer.json()["seconds"])
        ended.set()
    return {
        "reloads": len(seconds),
        "reload_s": {"median": float(np.median(seconds)), "max": max(seconds)},
        **bench.summary(exchanges, clock() - start),
    }


async def replica(bench: Bench) -> dict[str, Any]:
    """Traffic while an engine fails: what becomes of the requests, and who is told."""
    qps, seconds = bench.options.replica_qps, bench.options.replica_s
    clock = asyncio.get_running_loop().time
    told = dict[str, float]()  # state that /readyz shows -> seconds after the failure

    async def watch(client: httpx2.AsyncClient) -> None:
        await asyncio.sleep(seconds / 2)
        os.kill(bench.server.process.pid, signal.SIGUSR1)
        failed = clock()
        while True:
            answer = await client.get("/readyz")
            state = answer.json().get("replicas") or str(answer.status_code)
            told.setdefault(state, round(clock() - failed, 3))
            await asyncio.sleep(POLL_S)

    before = await bench.metrics()
    if sum(name.startswith("gplan_replica_up") for name in before) < 2:
        sys.exit("error: replica needs several engines; name --serve '--replicas 2'")
    async with httpx2.AsyncClient(
        base_url=bench.server.url, trust_env=False, timeout=METRICS_S
    ) as client:
        watching = asyncio.create_task(watch(client))
        exchanges = await bench.run(f"{qps:g} QPS, losing one", bench.poisson(qps, seconds))
        if watching.done():  # It ends by a fault alone.
            watching.result()
        watching.cancel()
        health = (await client.get("/healthz")).status_code
    after = await bench.metrics()
    halves = [
        [e for e in exchanges if (e.intended_s < seconds / 2) == early] for early in (True, False)
    ]
    log = bench.server.log.read_text(encoding="utf-8", errors="replace")
    held = [line.removeprefix(HELD) for line in log.splitlines() if line.startswith(HELD)]
    up = [value for name, value in after.items() if name.startswith("gplan_replica_up")]
    return {
        **bench.summary(exchanges, seconds),
        "before": bench.summary(halves[0], seconds / 2),
        "after": bench.summary(halves[1], seconds / 2),
        "held": int(held[0]) if held else 0,  # requests in the engine that failed
        "readyz_after_s": told,
        "healthz": health,
        "up": up,
        "slots": [before["gplan_slots"], after["gplan_slots"]],
        "compilations": _grown(before, after, "gplan_compilations_total"),
    }


async def send_once(bench: Bench) -> Exchange:
    [exchange] = await send_on_schedule(bench.send, bench.bodies, [0.0])
    return exchange


async def slots_held(bench: Bench) -> float:
    metrics = await bench.metrics()
    return metrics["gplan_active_slots"] + metrics["gplan_queued_requests"]


async def vanish(url: str, body: bytes, generator: random.Random, longest_s: float) -> None:
    """Sends a request, or only its beginning, and goes away: politely or with a reset."""
    host, _, port = url.removeprefix("http://").partition(":")
    head = f"POST {PLAN_PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    cut = generator.randrange(len(request)) if generator.random() < 0.25 else len(request)
    wait_s, reset = generator.uniform(0, longest_s), generator.random() < 0.5
    with suppress(ConnectionError):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(request[:cut])
        await writer.drain()
        await asyncio.sleep(wait_s)
        if reset:
            writer.transport.abort()
        else:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def resident_memory(pid: int) -> AsyncIterator[list[tuple[float, float]]]:
    """Samples a process's resident memory inside: (seconds from the start, MiB)."""
    clock = asyncio.get_running_loop().time
    start, samples = clock(), list[tuple[float, float]]()
    page = os.sysconf("SC_PAGE_SIZE")

    async def sample() -> None:
        while True:
            with suppress(OSError):  # It has died; the verdict says so.
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                samples.append((clock() - start, pages * page / MIB))
            await asyncio.sleep(SAMPLE_S)

    task = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        task.cancel()


def _grown(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return after.get(name, 0.0) - before.get(name, 0.0)


def main() -> None:
    options = parse_options()
    ran_on = machine()

    def command(port: int) -> list[str]:
        if options.command:
            return shlex.split(options.command.format(port=port))
        more = shlex.split(options.serve)
        if "reload" in options.parts:
            os.environ[ADMIN_KEY] = secrets.token_hex(16)
            more += ["--admin-key-env", ADMIN_KEY]
        command = serve_command(options.model, port, more)
        if "replica" in options.parts:
            command[1:3] = [str(FAULTY_SERVE)]  # in the place of -m gplan_jax.cli.main
        return command

    with tempfile.TemporaryDirectory() as temporary:
        log = (options.out or Path(temporary)) / "server.log"
        with local_server(command, log) as server:
            figures = asyncio.run(measure(server, options))
    report = {
        "benchmark": "serve",
        "server": options.command or f"gplan serve --model {options.model} {options.serve}".strip(),
        "deadline_ms": options.deadline_ms,
        "exit_code": server.process.returncode,
        "ran_on": ran_on,
        **figures,
        "verdicts": verdicts(figures, exit_code=server.process.returncode),
    }
    print(json.dumps(report, ensure_ascii=False))
    if not all(report["verdicts"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
