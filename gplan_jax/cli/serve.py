"""`gplan serve`: a planner behind HTTP; `gplan bench`: how fast it answers."""

from __future__ import annotations

import math
import shlex
from itertools import islice
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console

from gplan_jax.cli import options
from gplan_jax.cli.options import model_directory, named_paths
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import api_key, load_config
from gplan_jax.foundation.errors import require_extra
from gplan_jax.inference.engine.requests import DecodingMode

EXTRA = ("fastapi", "opentelemetry", "prometheus_client", "uvicorn")
OTEL = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
bench = typer.Typer(
    help="Measure a planner as its users meet it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def serve(
    model: options.Model,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    mode: options.Mode = None,
    slots: Annotated[int, typer.Option(min=1, max=256, help="Requests decoded together.")] = 8,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more get 503.")] = 64,
    replicas: Annotated[
        str, typer.Option(help="Engines, each on a device of its own; auto takes all devices.")
    ] = "1",
    deadline_ms: Annotated[
        int, typer.Option(min=1, help="Time for an answer where the request names none.")
    ] = 10_000,
    draft_tokens: Annotated[
        int, typer.Option(min=1, max=1024, help="Tokens of a drafted pass, over all its rows.")
    ] = 64,
    prefill_chunk: Annotated[
        int, typer.Option(min=0, help="Long prompts go in parts of so many tokens; 0: whole.")
    ] = 1024,
    prefix_cache_mib: Annotated[
        int, typer.Option(min=0, help="Memory for cached profiles and histories.")
    ] = 256,
    weights: options.Weights = "stored",
    response: options.Response = None,
    dtype: options.Dtype = "float32",
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the key that clients must send.")
    ] = None,
    admin_key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable with the key of POST /admin/reload."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name that requests may call this server by; repeatable. Left out, it is the "
            "loopback names where --host is one of them, and any name elsewhere."
        ),
    ] = None,
    max_body_kib: Annotated[int, typer.Option(min=1, help="Largest request body.")] = 1024,
    drain_s: Annotated[
        float, typer.Option(min=0, help="Time to finish accepted requests once told to stop.")
    ] = 30.0,
    log_contexts: Annotated[
        bool, typer.Option("--log-contexts", help="Log the contexts too; they are users' data.")
    ] = False,
    traces: Annotated[
        bool,
        typer.Option("--traces", help="Send spans to a collector, as OTEL_* variables say."),
    ] = False,
    experiment: Annotated[
        Path | None, typer.Option(help="experiment.yaml of an A/B test: answers name users' arms.")
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="NAME=DIR: users of this arm get this model's plans; repeatable."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="labels.yaml: words for the codes in contexts, on the page.")
    ] = None,
    service: options.Service = None,
    template: options.Template = None,
    prompt_length: options.PromptLength = None,
) -> None:
    """Serve plans over HTTP, with a page to try them, until Ctrl-C or SIGTERM.

    Example: gplan serve --model runs/quickstart/picd/model --port 8000

    Example: curl -s localhost:8000/v1/plan -H 'Content-Type: application/json'
    -d '{"context": {"currenttime": "2026-05-04 18:16:38", "trigger_1": "加油"}}'
    """
    from gplan_jax.abtest.experiment import AbTest
    from gplan_jax.inference.engine.requests import EngineConfig

    require_extra(EXTRA, "serve", "the server")
    if traces:
        require_extra(OTEL, "otel", "traces")

    from gplan_jax.data.tasks.registry import load_task
    from gplan_jax.inference.prediction.predict import mode_of
    from gplan_jax.serving.http.settings import Labels, ServerSettings
    from gplan_jax.serving.planning.serve import allowed_hosts
    from gplan_jax.serving.planning.serve import serve as run

    if replicas != "auto" and not (replicas.isascii() and replicas.isdigit() and int(replicas)):
        raise GplanError(f"--replicas {replicas} is none; it is a number from 1, or auto.")
    key, admin_key = api_key(api_key_env), api_key(admin_key_env)
    trial = load_config(AbTest, experiment) if experiment else None
    words = load_config(Labels, labels).labels if labels else {}
    task = load_task(model, service=service, template=template, response=response)
    mode = mode or mode_of(task)
    run(
        model,
        EngineConfig(
            mode=mode,
            slots=slots,
            queue=queue,
            response=response,
            draft_tokens=draft_tokens,
            prefill_chunk=prefill_chunk,
            prefix_cache_mib=prefix_cache_mib,
            weights=weights,
            compute_dtype=dtype,
        ),
        ServerSettings(
            mode=mode,
            deadline_ms=deadline_ms,
            max_deadline_ms=max(deadline_ms, 60_000),
            max_body_kib=max_body_kib,
            drain_s=drain_s,
            api_key=key,
            admin_key=admin_key,
            hosts=allowed_hosts(host, allow_host or []),
            log_contexts=log_contexts,
            experiment=trial,
            labels=words,
        ),
        arms={
            name: options.model_directory(path)
            for name, path in options.named_paths("--arm", arm or [], form="NAME=DIR").items()
        },
        host=host,
        port=port,
        service=service,
        template=template,
        prompt_length=prompt_length,
        replicas=None if replicas == "auto" else int(replicas),
        traces=traces,
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
        typer.Option(
            help="Rows to plan for: .csv, .jsonl or .parquet; else of the service's world."
        ),
    ] = None,
    service: options.Service = None,
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

    Example: gplan bench latency --url http://127.0.0.1:8000 --service amap --qps 5,10,20
    --out runs/latency
    """

    from gplan_jax.data.tasks.gsisr_task import GsisrTask
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
    if models:
        library = GsisrTask.load(next(iter(models.values())), service=service).library
    else:
        library = options.service_of(service, data=data).library
    if data is None:
        samples = study.simulated_contexts(plan, library)
    else:
        rows = read_samples(data, form=library.rows)
        samples = list(islice(rows, study.contexts_needed(plan)))
    if url:
        key = api_key(api_key_env)
        secret = key.get_secret_value() if key else None
        results = study.measure_running(url, samples, out, plan, api_key=secret)
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
