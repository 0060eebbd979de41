"""`gplan bench`: how fast a served planner answers."""

from __future__ import annotations

import math
import shlex
from itertools import islice
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console

from gplan_jax.cli.options import model_directory, named_paths, read_api_key
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.extras import require_extra
from gplan_jax.inference.engine.requests import DecodingMode

bench = typer.Typer(
    help="Measure a planner as its users meet it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@bench.callback()
def group() -> None:
    """Measure a planner as its users meet it."""


@bench.command()
def latency(
    out: Annotated[Path, typer.Option(help="New directory for figures, tables and logs.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model directory, DIR or NAME=DIR; repeat it for each table row."),
    ] = None,
    url: Annotated[str | None, typer.Option(help="A running server, instead of --model.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Rows to plan for: .csv, .jsonl or .parquet; else simulated ones."),
    ] = None,
    qps: Annotated[
        list[str] | None,
        typer.Option(help="Requests a second, a run each: 10, or 5,10,20; repeat as you like."),
    ] = None,
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds of each run.")] = 30.0,
    deadline_ms: Annotated[
        float | None,
        typer.Option(min=1, help="Sent with every request; goodput counts answers within it."),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=drafted, constrained or unconstrained: only that. Else drafted and, as "
            "NAME-free, unconstrained; a model that writes its reasoning only unconstrained."
        ),
    ] = None,
    replicas: Annotated[
        str, typer.Option(help="Engines of a server: 1, or 1,2 to measure each as NAME-xN too.")
    ] = "1",
    serve: Annotated[
        str, typer.Option(help="More options for `gplan serve`, e.g. '--slots 16 --weights int8'.")
    ] = "",
    warmup: Annotated[int, typer.Option(min=1, help="Requests before the first run.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the arrival times.")] = 0,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds until a request counts as unanswered.")
    ] = 120.0,
    start_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds a server may take to be ready.")
    ] = 900.0,
    api_key_env: Annotated[
        str | None, typer.Option(help="With --url: environment variable that holds its key.")
    ] = None,
) -> None:
    """Response times of models under the same Poisson load, as in the paper's table 5.

    Each model is served by `gplan serve` on a free local port, warmed up, asked, and stopped.
    Latencies count from the time a request was meant to leave, so that no queue is hidden.

    Example: gplan bench latency --model direct=runs/direct/model --model cot=runs/cot/model
    --model picd=runs/picd/model --data test.csv --qps 10 --qps 20 --out runs/latency

    Example: gplan bench latency --url http://127.0.0.1:8000 --qps 5,10,20 --out runs/latency
    """

    from gplan_jax.gsisr import read_samples

    require_extra(("h11", "httpx2"), "serve", "the load generator")
    from gplan_jax.serving.latency import latency_study as study

    if bool(model) == bool(url):
        raise GplanError("Name what to measure: --model NAME=DIR, repeated, or --url of a server.")
    counts = [int(part) for part in replicas.split(",") if part.isascii() and part.isdigit()]
    if len({*counts} - {0}) != len(replicas.split(",")):
        raise GplanError(f"--replicas {replicas}: write numbers from 1, each once, e.g. 1,2.")
    if url and (mode or serve or counts != [1]):
        raise GplanError(
            "--mode, --replicas and --serve are for servers started here; leave out --url."
        )
    plan = study.LoadPlan(
        qps=parse_rates(qps or ["10"]),
        duration_s=duration,
        deadline_ms=deadline_ms,
        seed=seed,
        warmup=warmup,
        timeout_s=timeout,
    )
    named = named_paths("--model", model or [])
    models = {name: model_directory(path) for name, path in named.items()}
    modes = parse_modes(mode or [])
    if data is None:
        samples = study.simulated_contexts(plan)
    else:
        samples = list(islice(read_samples(data), study.contexts_needed(plan)))
    if url:
        results = study.measure_running(url, samples, out, plan, api_key=read_api_key(api_key_env))
    else:
        results = study.compare_latency(
            models,
            samples,
            out,
            plan,
            modes=modes,
            replicas=counts,
            serve_options=shlex.split(serve),
            start_timeout_s=start_timeout,
        )
    Console().print(study.latency_view(results))
    typer.echo(f"Finished. The result is in {out}")
    typer.echo(f"  these tables     {out / study.TABLES}")
    typer.echo(f"  all figures      {out / study.RESULTS}")
    typer.echo(f"  every request    {out / 'NAME' / 'qps_RATE.jsonl'}")


def parse_rates(values: list[str]) -> tuple[float, ...]:
    """Rates from "10" or "5,10,20", repeated; without doubles, in the order given."""
    parts = [part.strip() for value in values for part in value.split(",")]
    rates: dict[float, None] = {}
    for part in parts:
        try:
            rate = float(part)
        except ValueError:
            rate = math.nan
        if not 0 < rate < math.inf:
            raise GplanError(f"--qps {part!r} is no rate; write positive numbers, e.g. 5,10,20.")
        rates[rate] = None
    return tuple(rates)


def parse_modes(values: list[str]) -> dict[str, DecodingMode]:
    """NAME=MODE, repeated; GplanError where one is not written so, or there is no such mode."""
    modes: dict[str, DecodingMode] = {}
    for value in values:
        name, _, mode = value.partition("=")
        if mode not in get_args(DecodingMode):
            known = ", ".join(get_args(DecodingMode))
            raise GplanError(f"--mode {value!r}: write NAME=MODE with one of {known}.")
        modes[name] = cast(DecodingMode, mode)
    return modes
