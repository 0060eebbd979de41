"""`gplan quickstart`: the whole way on a small simulated world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def quickstart(
    out: Annotated[Path, typer.Option(help="Directory of all results.")] = Path("runs/quickstart"),
    rows: Annotated[int, typer.Option(min=60, help="Simulated rows.")] = 6000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of world, weights and shuffles.")] = 0,
    full: Annotated[
        bool, typer.Option("--full", help="Also Direct-SFT and vanilla DPO, for comparison.")
    ] = False,
) -> None:
    """Simulate rows, make a tiny Qwen3, train PICD, prefer, evaluate, show plans.

    Needs no download and no GPU. A run that was stopped continues when called again.

    Example: gplan quickstart --out runs/quickstart
    """

    from gplan_jax.cli.quickstart_run import quickstart as run

    run(out, rows=rows, seed=seed, full=full, console=Console())
