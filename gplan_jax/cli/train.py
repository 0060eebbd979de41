"""`gplan train`, and `gplan plan-memory`: what its step needs on devices that need not be here."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path
from typing import Annotated

import typer

from gplan_jax.cli import options
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import load_config


def train(
    config: Annotated[
        Path, typer.Argument(help="YAML file of the run, or a name of gplan config list.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Replace values, e.g. epochs=3."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the output directory, exactly.")
    ] = False,
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes",
            help="Resume although config, rows or prompt have changed in what the weights "
            "depend on. The changes are shown and logged.",
        ),
    ] = False,
) -> None:
    """Train a planner: Direct-SFT, CoT-SFT, PICD or SC-DPO, as the config's mode says.

    Example: gplan train picd_qwen3_1_7b data.train=rows.csv output=runs/picd

    On SIGTERM or Ctrl-C it finishes the step, writes a checkpoint and exits with
    143 or 130; the same command with --resume goes on. Bad input exits with 2,
    a full or read-only disk with 1, a run that takes no step any more with 75.
    """
    from gplan_jax.evaluation.scores.model_evaluation import train_and_evaluate
    from gplan_jax.training.hosts.rendezvous import StartTimeout
    from gplan_jax.training.hosts.startup import joined
    from gplan_jax.training.loop.metrics_log import best_evaluation, speed_and_time
    from gplan_jax.training.resume.preemption import RunStopped
    from gplan_jax.training.steps.train_config import TrainConfig

    settings = load_config(TrainConfig, config, overrides or [])
    settings = settings.model_copy(
        update={"model": str(options.model_directory(Path(settings.model)))}
    )
    stopped: RunStopped | None = None
    try:
        with joined() as place:
            try:
                model = train_and_evaluate(settings, resume=resume, allow_changes=allow_changes)
            except RunStopped as stop:
                stopped = stop  # All processes stop at the same step; none of them has failed.
    except StartTimeout:
        raise
    except OSError:
        if (Path(settings.output) / "config.yaml").is_file():
            typer.echo(
                f"The run in {settings.output} has stopped; its checkpoints so far are whole, and "
                "--resume goes on from the newest.",
                err=True,
            )
        raise
    first = not (place and place.process)  # It speaks for all.
    if stopped:
        if first:
            again = ["gplan", "train", str(config), *(overrides or []), "--resume"]
            typer.echo(f"{stopped}\n  {shlex.join(again)}", err=True)
        raise typer.Exit(stopped.exit_code)
    if not first:
        return
    typer.echo(f"Finished. The model is in {model}")
    typer.echo(f"  figures of every step  {settings.output}/log.jsonl (tensorboard beside it)")
    for name, text in speed_and_time(model.parent).items():
        typer.echo(f"  {name:<21}  {text}")
    best = best_evaluation(model.parent, settings.checkpoint.best_metric)
    if best:
        kept = f", model in {model.parent / 'best'}" if settings.checkpoint.keep_best else ""
        typer.echo(f"  best evaluation        {best}{kept}")
    typer.echo(f"  score it               gplan evaluate --model {model} --data FILE --out DIR")
    if settings.mode == "scdpo":
        sensitivity = f"gplan sensitivity --model {model} --pairs FILE --out DIR"
        typer.echo(f"  context sensitivity    {sensitivity}")
    typer.echo(f"  to Hugging Face        gplan export {model} --out DIR")


def plan_memory(
    config: Annotated[
        str | None, typer.Argument(help="YAML file of the run, or a name of gplan config list.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Replace values, e.g. mesh.tensor=2."),
    ] = None,
    topology: Annotated[
        str, typer.Option(help="e.g. v5e:4x4, v5p:2x2x4, v6e:2x4, h100:8, or local.")
    ] = "local",
    model: Annotated[
        str | None, typer.Option(help="A shipped shape (qwen3-1.7b, ...) for config.model.")
    ] = None,
    sequence_length: Annotated[
        int | None, typer.Option(help="Longest row, prompt and response; data.max_length if unset.")
    ] = None,
    prefix_length: Annotated[int, typer.Option(help="Tokens of the shared system prompt.")] = 761,
    context_length: Annotated[
        int | None,
        typer.Option(
            help="Mode scdpo: longest end of a prompt, from where the two of a pair part; 165 if "
            "unset."
        ),
    ] = None,
    response_length: Annotated[
        int | None,
        typer.Option(
            help="Tokens of the longest response; if unset 142 in mode scdpo, where all reasoning "
            "is latent, else 311."
        ),
    ] = None,
    serve: Annotated[
        Path | None,
        typer.Option(
            help="Plan `gplan serve` of this model directory instead of a run, on one device; "
            "KEY=VALUE are the engine's, e.g. slots=16 weights=int8 compute_dtype=bfloat16."
        ),
    ] = None,
    service: options.Service = None,
    passes: Annotated[
        float | None, typer.Option(min=1, help="Of a plan (--serve); 4.4 where it is drafted.")
    ] = None,
    search: Annotated[
        bool, typer.Option(help="Where it does not fit, look for the nearest setting that does.")
    ] = True,
) -> None:
    """Compile the training step for a topology and say what it needs and whether it fits.

    Needs no weights, no rows and no accelerator; for TPUs, libtpu (the extra "tpu").

    Lengths that are not given are those of the public rows, docs/memory.md.

    Example: gplan plan-memory picd_qwen3_1_7b --topology v5e:4x4

    Example: gplan plan-memory --serve runs/picd/model compute_dtype=bfloat16 --topology v5e:1x1
    """
    import jax

    from gplan_jax.training.memory.abstract_step import model_shape
    from gplan_jax.training.memory.batch_shape import RowLengths
    from gplan_jax.training.memory.planning import overrides as changes
    from gplan_jax.training.memory.planning import plan_memory, search_fitting
    from gplan_jax.training.memory.report import MemoryPlan, describe
    from gplan_jax.training.memory.topologies import parse_topology
    from gplan_jax.training.steps.train_config import TrainConfig

    devices = parse_topology(topology)
    if devices.needs_libtpu:
        # Only a compiler is wanted: libtpu would look for chips on this machine, and wait for them.
        jax.config.update("jax_platforms", "cpu")
    progress = functools.partial(typer.echo, err=True)
    if serve is not None:
        from gplan_jax.inference.engine.serving_plan import describe_serving, plan_serving

        texts = [text for text in (config, *(overrides or [])) if text is not None]
        engine = plan_serving(
            serve,
            texts,
            devices,
            shape=model_shape(serve, model),
            service=service,
            system=None if model is None else prefix_length,
            longest=sequence_length,
            plan_passes=passes,
            report=progress,
        )
        typer.echo(describe_serving(engine))
        raise typer.Exit(0 if engine.fits else 1)
    if config is None:
        raise GplanError("Name the config of a run, or a model directory with --serve.")
    settings = load_config(TrainConfig, config, overrides or [])
    shape = model_shape(Path(settings.model), model)
    lengths = RowLengths.of(
        settings,
        sequence=sequence_length,
        prefix=prefix_length,
        context=context_length,
        response=response_length,
    )

    def plan_of(candidate: TrainConfig) -> MemoryPlan:
        return plan_memory(candidate, shape, devices, lengths)

    progress(f"planning {config} on {topology}; compiling takes about a minute")
    plan = plan_of(settings)
    typer.echo(describe(plan))
    if plan.fits or not plan.capacity:
        return
    if not search:
        raise typer.Exit(1)
    result = search_fitting(settings, shape, devices.devices, plan_of, report=progress)
    if result.found is None:
        stopped = "" if result.complete else f" (stopped after {len(result.tried)} plans)"
        typer.echo(f"No setting that was tried fits{stopped}; take more devices or fewer rows.")
        raise typer.Exit(1)
    typer.echo("")
    typer.echo(f"The nearest setting that fits: {' '.join(changes(settings, result.found.config))}")
    typer.echo(describe(result.found))
