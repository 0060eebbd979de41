"""`gplan report`: one self-contained HTML file from results of `gplan baseline`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[
        list[str],
        typer.Option(
            help="The --out of a gplan baseline run, DIR or NAME=DIR; repeat it to show several "
            "side by side."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The HTML file to write; an earlier report there is replaced.")
    ],
    library: Annotated[
        Path | None, typer.Option(help="Intent library, if not the shipped Amap one.")
    ] = None,
) -> None:
    """Make one HTML file of baseline runs: tables, intervals, curves, slices, confusions.

    It opens anywhere, asks for nothing from the network, prints well, and holds no row's text.

    Example: gplan report --run run/baselines --out report.html

    Example: gplan report --run full=run/full --run history=run/history --out report.html
    """
    from rich.console import Console

    from gplan_jax.cli.sensitivity import named_paths
    from gplan_jax.evaluation.comparison.results import read_results
    from gplan_jax.evaluation.report.page import STEPS, refuse_foreign, write_report
    from gplan_jax.evaluation.report.verdict import summary_table
    from gplan_jax.foundation.progress import ProgressBar
    from gplan_jax.gsisr import IntentLibrary

    refuse_foreign(out)
    folders = named_paths("--run", run, called=lambda path: path.name, form="NAME=DIR")
    intents = IntentLibrary.load(library)
    runs = [read_results(folder, name) for name, folder in folders.items()]
    with ProgressBar("report", STEPS * len(runs)) as bar:
        write_report(runs, out, intents, note=bar.advance)
    for results in runs:
        Console().print(summary_table(results))
    typer.echo(f"Finished. The report is in {out} ({out.stat().st_size / 1000:,.0f} kB)")
