"""`gplan sensitivity`: whether plans follow time and place, several models beside one another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from gplan_jax.cli.evaluation import MaxNewTokens
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.paths import local_path


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
    on_error: Annotated[
        Literal["raise", "skip"], typer.Option(help="Stop at a faulty pair, or leave it out.")
    ] = "raise",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows decoded together.")] = 16,
    max_new_tokens: MaxNewTokens = None,
) -> None:
    """Plan both contexts of every pair: does the plan change when it should, and to the right one?

    Example: gplan sensitivity --model picd=run/picd/model --model scdpo=run/scdpo/model --pairs
    test_pairs.jsonl --unchanged test_same.jsonl --log scdpo=run/scdpo/log.jsonl --out run/context
    """
    from rich.console import Console

    from gplan_jax.evaluation.sensitivity.model_comparison import (
        CURVES,
        RESULTS,
        TABLES,
        compare_sensitivity,
    )
    from gplan_jax.evaluation.sensitivity.sensitivity_tables import sensitivity_view
    from gplan_jax.foundation.faulty_rows import FaultyRows

    metrics = compare_sensitivity(
        named_paths("--model", model),
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
    typer.echo(f"  these tables                {out / TABLES}")
    typer.echo(f"  all figures                 {out / RESULTS}")
    if log:
        typer.echo(f"  curves of the training runs {out / CURVES}")
    typer.echo(f"  every model's answers       {out / 'NAME'}")


def run_of(path: Path) -> str:
    """How a model is called: as its directory, or as its run where that is RUN/model."""
    return path.parent.name if path.name == "model" else path.name


def named_paths(
    option: str,
    values: list[str],
    *,
    called: Callable[[Path], str] = run_of,
    form: str = "NAME=PATH",
) -> dict[str, Path]:
    """NAME=PATH, or PATH alone, which ``called`` gives a name by its absolute path.

    Raises:
        GplanError: two values have the same name; the message shows ``form``.
    """
    paths: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals:
            name, path = called(local_path(value).resolve()), value
        if name in paths:
            raise GplanError(f"{option}: two are called {name!r}; name them apart, {form}.")
        paths[name] = local_path(path)
    return paths
