"""`gplan serve`: a planner behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gplan_jax.cli import options
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import load_config
from gplan_jax.foundation.extras import require_extra

EXTRA = ("fastapi", "opentelemetry", "prometheus_client", "uvicorn")
OTEL = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


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
    from pydantic import SecretStr

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
    key, admin_key = options.read_api_key(api_key_env), options.read_api_key(admin_key_env)
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
            api_key=SecretStr(key) if key else None,
            admin_key=SecretStr(admin_key) if admin_key else None,
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
