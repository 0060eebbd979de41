"""`gplan train`: one run from one config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Argument(help="YAML file of the run; configs/ holds some.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Replace values, e.g. epochs=3."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the output directory.")
    ] = False,
) -> None:
    """Train a planner: Direct-SFT, CoT-SFT or PICD, as the config's mode says.

    Example: gplan train configs/picd_qwen3_1_7b.yaml data.train=rows.csv output=runs/picd
    """
    from gplan_jax.evaluation.during_training import train_and_evaluate
    from gplan_jax.foundation.config import load_config
    from gplan_jax.training.config import TrainConfig

    settings = load_config(TrainConfig, config, overrides or [])
    model = train_and_evaluate(settings, resume=resume)
    typer.echo(f"Finished. The model is in {model}")
    typer.echo(f"  figures of every step  {settings.output}/log.jsonl (tensorboard beside it)")
    typer.echo(f"  score it               gplan evaluate --model {model} --data FILE --out DIR")
    typer.echo(f"  to Hugging Face        gplan export {model} --out DIR")
