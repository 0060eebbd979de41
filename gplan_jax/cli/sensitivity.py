"""`gplan sensitivity`: whether plans follow time and place, several models beside one another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gplan_jax.cli.options import BatchSize, MaxNewTokens, OnError, model_directory, named_paths
from gplan_jax.foundation.faulty_rows import FaultyRows


def sensitivity(
    model: Annotated[
        list[str],
        typer.Option(
            help="A model directory, DIR or NAME=DIR; repeat it for each model of the table."
        ),
    ],
    pairs: Annotated[Path, typer.Option(help="Context pairs whose teacher plans differ: .jsonl.")],
    out: Annotated[
        Path, typer.Option(help="Directory of the result; models that stand in it are not redone.")
    ],
    unchanged: Annotated[
        Path | None, typer.Option(help="Context pairs whose teacher plans are equal: .jsonl.")
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option(help="NAME=RUN/log.jsonl of a model's preference run; draws its curves."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many pairs of each file.")
    ] = None,
    on_error: OnError = "raise",
    batch_size: BatchSize = 16,
    max_new_tokens: MaxNewTokens = None,
) -> None:
    """Plan both contexts of every pair: does the plan change when it should, and to the right one?

    Example: gplan sensitivity --model picd=run/picd/model --model scdpo=run/scdpo/model --pairs
    test_pairs.jsonl --unchanged test_same.jsonl --log scdpo=run/scdpo/log.jsonl --out run/context
    """

    from gplan_jax.evaluation.sensitivity import model_comparison
    from gplan_jax.evaluation.sensitivity.sensitivity_tables import sensitivity_view

    metrics = model_comparison.compare_sensitivity(
        {name: model_directory(path) for name, path in named_paths("--model", model).items()},
        pairs,
        out,
        unchanged=unchanged,
        logs=named_paths("--log", log or []),
        limit=limit,
        faulty=FaultyRows(on_error),
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
    )
    Console().print(sensitivity_view(metrics))
    typer.echo(f"Finished. The result is in {out}")
    typer.echo(f"  these tables                {out / model_comparison.TABLES}")
    typer.echo(f"  all figures                 {out / model_comparison.RESULTS}")
    if log:
        typer.echo(f"  curves of the training runs {out / model_comparison.CURVES}")
    typer.echo(f"  every model's answers       {out / 'NAME'}")
