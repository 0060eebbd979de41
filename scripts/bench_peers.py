"""Our server beside vLLM or SGLang on one exported planner: the same prompts, one machine.

    gplan export runs/quickstart/picd/model --out planner-hf
    python scripts/bench_peers.py --model runs/quickstart/picd/model --export planner-hf \
        --vllm-python ~/vllm/bin/python --out runs/peers

--address http://host:8000 (with --kind vllm or sglang) takes a server that runs elsewhere instead
of --vllm-python; start it as docs/other_servers.md says, its model called "planner". Servers run
one after the other. All get the same token ids, decode greedily, and theirs is guided by a grammar
file of the export. Each is warmed up with other prompts, then asked

alone   --plans prompts, each when the one before is answered
qps     --qps requests a second for --seconds, in an open loop: latencies count from intended times

Ours is asked twice: /v1/completions with the token ids, as the others, and /v1/plan with contexts,
where it knows which part of a prompt is the user's own and keeps it.

Prints one line of JSON: milliseconds a plan (median, p99), tokens, sequential passes over the
weights (of vLLM and SGLang one a token, as they draft nothing here), how many answers are the plan
and the text of ours, and how many break a rule (check_plan).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.gsisr import IntentLibrary, Sample, check_plan, parse_plan, read_samples
from gplan_jax.serving.latency.latency_report import machine, spread
from gplan_jax.serving.latency.latency_study import (
    LoadPlan,
    local_server,
    serve_command,
    simulated_contexts,
)
from gplan_jax.serving.latency.load_generator import (
    LEAD_S,
    OK,
    PLAN_PATH,
    Reply,
    http_sender,
    plan_bodies,
    poisson_schedule,
)

NAME = "planner"
TIMEOUT_S = 120.0
COMPLETIONS = "/v1/completions"


@dataclass(frozen=True)
class Answer:
    """One answer: its text without an end token, its tokens, and how long it took."""

    text: str
    tokens: int
    milliseconds: float
    problem: str = ""


@dataclass(frozen=True)
class Wire:
    """How a kind of server is asked: path, prompt ids -> body, and how its answer is read."""

    path: str
    bodies: Sequence[bytes]
    read: Callable[[Any], tuple[str, int]]


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="model directory, which ours serves")
    add("--export", type=Path, required=True, help="its gplan export")
    add("--vllm-python", help="Python of an environment that has vLLM")
    add("--vllm-options", default="", help="more options for `vllm serve`")
    add("--address", help="a server that runs elsewhere, instead of --vllm")
    add("--kind", choices=("vllm", "sglang"), default="vllm", help="of --address")
    add("--grammar", choices=("lark", "ebnf"), default="lark", help="llguidance or xgrammar")
    add("--serve", default="", help="more options for `gplan serve`, e.g. '--dtype bfloat16'")
    add("--data", type=Path, help="rows to plan for; else simulated ones")
    add("--plans", type=int, default=100, help="asked for one at a time")
    add("--qps", type=float, default=10.0)
    add("--seconds", type=float, default=60.0)
    add("--warmup", type=int, default=20)
    add("--seed", type=int, default=0)
    add("--out", type=Path, help="directory of logs and answers; else a temporary one")
    options = parser.parse_args()
    if options.vllm_python and options.address:
        parser.error("name --vllm-python or --address, not both")
    return options


class Prompts:
    """The contexts, their prompts as token ids, and what answers are read by."""

    def __init__(self, model: Path, samples: Sequence[Sample]) -> None:
        task = GsisrTask.load(model)
        encoder = ChatEncoder.load(model)
        assert task.response in ("plan", "latent"), "a grammar describes plans and latent tokens"
        self.samples, self.form, self.library = samples, task.response, task.library
        self.end_id, self.end = encoder.end_id, encoder.decode([encoder.end_id])
        self.ids = [task.prompt_ids(sample, encoder).tolist() for sample in samples]

    def plan_wire(self) -> Wire:
        """Ours, with contexts."""
        bodies = plan_bodies(self.samples)
        return Wire(PLAN_PATH, bodies, lambda a: (a["text"], a["usage"]["response_tokens"]))

    def completions_wire(self, model: str, more: Mapping[str, Any]) -> Wire:
        """Ours or vLLM's, with token ids."""
        head = {"model": model, "max_tokens": 256, "temperature": 0}
        bodies = [json.dumps({**head, "prompt": ids, **more}).encode() for ids in self.ids]

        def read(answer: Any) -> tuple[str, int]:
            text = answer["choices"][0]["text"].removesuffix(self.end)
            return text, answer["usage"]["completion_tokens"]

        return Wire(COMPLETIONS, bodies, read)

    def vllm_wire(self, grammar: str) -> Wire:
        guided = {"stop_token_ids": [self.end_id], "skip_special_tokens": False}
        return self.completions_wire(NAME, guided | {"structured_outputs": {"grammar": grammar}})

    def sglang_wire(self, grammar: str) -> Wire:
        sampling = {
            "temperature": 0,
            "max_new_tokens": 256,
            "stop_token_ids": [self.end_id],
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "ebnf": grammar,
        }
        bodies = [
            json.dumps({"input_ids": ids, "sampling_params": sampling}).encode() for ids in self.ids
        ]
        return Wire(
            "/generate",
            bodies,
            lambda a: (a["text"].removesuffix(self.end), a["meta_info"]["completion_tokens"]),
        )


async def ask(url: str, wire: Wire, title: str, options: argparse.Namespace) -> dict[str, Any]:
    """Warms a server up, asks for plans one at a time and at a rate; part -> answers."""

    def read(reply: Reply, milliseconds: float) -> Answer:
        if reply.status != OK:
            said = reply.body.decode("utf-8", "replace")[:300]
            return Answer("", 0, milliseconds, f"{reply.status} {reply.problem} {said}".strip())
        return Answer(*wire.read(json.loads(reply.body)), milliseconds)

    clock = asyncio.get_running_loop().time
    bodies = iter(wire.bodies)
    schedule_s = poisson_schedule(options.qps, options.seconds, options.seed)
    async with http_sender(url, path=wire.path, timeout_s=TIMEOUT_S) as send:
        for body in islice(bodies, options.warmup):
            if problem := read(await send(body), 0.0).problem:
                sys.exit(f"error: {title} answers the first requests with {problem}")
        before = await passes(url)
        alone = list[Answer]()
        with ProgressBar(f"{title}, one at a time", options.plans) as bar:
            for body in islice(bodies, options.plans):
                sent = clock()
                reply = await send(body)
                alone.append(read(reply, 1e3 * (clock() - sent)))
                bar.advance()
        between = await passes(url)
        start = clock() + LEAD_S
        with ProgressBar(f"{title}, {options.qps:g} QPS", len(schedule_s)) as bar:

            async def exchange(body: bytes, intended: float) -> Answer:
                reply = await send(body)
                bar.advance()
                return read(reply, 1e3 * (clock() - start - intended))

            tasks = []
            async with asyncio.TaskGroup() as group:
                for body, intended in zip(bodies, map(float, schedule_s), strict=False):
                    await asyncio.sleep(start + intended - clock())
                    tasks.append(group.create_task(exchange(body, intended)))
        after = await passes(url)
    measured = {"alone": alone, "qps": [task.result() for task in tasks]}
    counted = {"alone": mean_passes(before, between), "qps": mean_passes(between, after)}
    return {"answers": measured, "passes": counted}


async def passes(url: str) -> tuple[float, float] | None:
    """Sum and count of a server's passes a plan so far; None where it does not count them."""
    async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if line.startswith("gplan_plan_passes_"))
    if not found:
        return None
    return float(found["gplan_plan_passes_sum"]), float(found["gplan_plan_passes_count"])


def mean_passes(
    before: tuple[float, float] | None, after: tuple[float, float] | None
) -> float | None:
    """Passes a plan between two readings."""
    if before is None or after is None or after[1] == before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])


def figures(
    found: Mapping[str, Any], reference: Mapping[str, Any], prompts: Prompts
) -> dict[str, Any]:
    """What is reported of a server's answers; ``reference`` is what ours answered."""
    report = dict[str, Any]()
    for part, answers in found["answers"].items():
        good = [answer for answer in answers if not answer.problem]
        pairs = [
            (answer, ours)
            for answer, ours in zip(answers, reference["answers"][part], strict=True)
            if not answer.problem and not ours.problem
        ]
        tokens = spread([answer.tokens for answer in good])
        counted = found["passes"][part]
        milliseconds = spread([answer.milliseconds for answer in good]) or {}
        report[part] = {
            "plans": len(answers),
            "problems": sorted({answer.problem for answer in answers if answer.problem})[:3],
            "answered": len(good),
            "ms": {key: round(milliseconds[key], 1) for key in ("p50", "p99") if milliseconds},
            "tokens": tokens and round(tokens["mean"], 1),
            "passes": round(counted, 2) if counted else tokens and round(tokens["mean"], 1),
            "same_text": sum(answer.text == ours.text for answer, ours in pairs),
            "same_plan": sum(
                parse_plan(answer.text, prompts.library) == parse_plan(ours.text, prompts.library)
                for answer, ours in pairs
            ),
            "compared": len(pairs),
            "break_a_rule": sum(bool(check_plan(a.text, prompts.library)) for a in good),
        }
    return report


def main() -> None:
    options = parse_options()
    ran_on = machine()
    wanted = options.warmup + options.plans + round(2 * options.qps * options.seconds)
    if options.data:
        samples = list(islice(read_samples(options.data), wanted))
    else:
        samples = simulated_contexts(LoadPlan(warmup=wanted, qps=()), IntentLibrary.load())
    prompts = Prompts(options.model, samples)
    grammar = options.export / "guided" / f"{prompts.form}.{options.grammar}"
    report = dict[str, Any]()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)

        def ours(port: int) -> list[str]:
            return serve_command(options.model, port, shlex.split(options.serve))

        with local_server(ours, out / "gplan.log") as server:
            with httpx2.Client(base_url=server.url, trust_env=False, timeout=60) as client:
                name = client.get("/v1/models").json()["data"][0]["id"]
            wires = {
                "gplan /v1/completions": prompts.completions_wire(name, {}),
                "gplan /v1/plan": prompts.plan_wire(),
            }
            found = {
                title: asyncio.run(ask(server.url, wire, title, options))
                for title, wire in wires.items()
            }
        reference = found["gplan /v1/completions"]
        text = grammar.read_text(encoding="utf-8")
        wire = getattr(prompts, f"{options.kind}_wire")(text)
        if options.address:
            found[options.kind] = asyncio.run(ask(options.address, wire, options.kind, options))
        elif options.vllm_python:
            backend = {"lark": "guidance", "ebnf": "xgrammar"}[options.grammar]

            def theirs(port: int) -> list[str]:
                # Another environment: what holds for ours must not reach it. The command `vllm` of
                # the CPU wheel does not start, as it asks for the version of a package "vllm".
                command = ["env", "-u", "PYTHONPATH", "HF_HUB_OFFLINE=1", "VLLM_NO_USAGE_STATS=1"]
                command += [f"PATH={Path(options.vllm_python).parent}:{os.environ['PATH']}"]
                command += [options.vllm_python, "-m", "vllm.entrypoints.openai.api_server"]
                command += ["--model", str(options.export), "--served-model-name", NAME]
                command += ["--host", "127.0.0.1", "--port", str(port)]
                command += [f"--structured-outputs-config.backend={backend}"]
                return [*command, *shlex.split(options.vllm_options)]

            with local_server(theirs, out / "vllm.log", ready_path="/health") as server:
                found["vllm"] = asyncio.run(ask(server.url, wire, "vllm", options))
        for title, one in found.items():
            report[title] = figures(one, reference, prompts)
    prompt_tokens = spread([len(ids) for ids in prompts.ids])
    assert prompt_tokens is not None
    print(
        json.dumps(
            {
                "benchmark": "peers",
                "model": str(options.model),
                "grammar": grammar.name,
                "options": {"serve": options.serve, "vllm": options.vllm_options},
                "prompt_tokens": round(prompt_tokens["mean"], 1),
                "qps": options.qps,
                "ran_on": ran_on,
                "load_after": round(os.getloadavg()[0], 2),
                "servers": report,
            },
            ensure_ascii=False,
        )
    )


if __name__ == "__main__":
    main()
