"""`gplan compare`: two planners on the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from gplan_jax.cli import options
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.strict_json import json_text


@options.with_decoding
def compare(
    first: Annotated[
        Path,
        typer.Argument(
            metavar="A",
            help="A model (directory or hub id), what evaluate or predict wrote, or predictions.",
        ),
    ],
    second: Annotated[Path, typer.Argument(metavar="B", help="The same of the other planner.")],
    data: Annotated[
        Path | None, typer.Option(help="Rows for models to plan, with the labels of predict's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="New directory: answers of models, figures, all rows.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Figures as JSON, not a table.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Models plan so many rows only.")] = None,
    on_error: options.OnError = "raise",
    batch_size: options.BatchSize = 16,
    mode: options.Mode = None,
    **decoding: Any,
) -> None:
    """Compare two planners row by row: differences with intervals, and what these rows can show.

    Example: gplan compare run/sft/model run/picd/model --data test.csv --out run/compared

    Example: gplan compare run/test_sft run/test_picd
    """
    from gplan_jax.evaluation.comparison.planner_pair import (
        COMPARISON,
        DIFFERING,
        compare_planners,
        pair_view,
    )
    from gplan_jax.models.checkpoints.model_directory import RECORD

    first, second = (options.model_directory(given) for given in (first, second))
    for given in (first, second):
        if data is not None and (given / RECORD).is_file():
            decoding = options.planning_options(given, data, decoding)
    asked = {"limit": limit, "batch_size": batch_size, "mode": mode, **decoding}
    result, differing = compare_planners(
        first, second, data=data, out=out, faulty=FaultyRows(on_error), **asked
    )
    if as_json:
        typer.echo(json_text(result | {"differing": [row["row"] for row in differing]}, indent=2))
        return
    Console().print(pair_view(result, differing))
    if out is None:
        typer.echo("Nothing was written; --out DIR keeps the figures and all rows that differ.")
    else:
        typer.echo(f"Finished. The result is in {out}")
        typer.echo(f"  figures          {out / COMPARISON}")
        typer.echo(f"  rows that differ {out / DIFFERING}")
