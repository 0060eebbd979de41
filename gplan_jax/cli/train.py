"""`gplan train`: one run from one config."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from gplan_jax.cli import options
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
    from gplan_jax.evaluation.scores.training_evaluation import train_and_evaluate
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
