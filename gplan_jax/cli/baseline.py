"""`gplan baseline` and `gplan report`: arms and floors compared on the same rows, and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from gplan_jax.cli.options import Processes, Service, named_paths, service_of
from gplan_jax.foundation import GplanError

LIST = "list"


def baseline(
    name: Annotated[
        str, typer.Argument(help="An arm, several with commas, all, or list to see them.")
    ],
    data: Annotated[
        Path | None, typer.Option(help="Labelled rows: .csv, .jsonl or .parquet.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Results directory; the same one goes on where it stopped.")
    ] = None,
    mode: Annotated[
        Literal["full", "history"],
        typer.Option(help="What arms see of a row: all of it, or profile and histories alone."),
    ] = "full",
    folds: Annotated[int, typer.Option(min=2, help="Folds by id; each row is scored in one.")] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="Fits of the chosen settings a fold.")] = 5,
    trials: Annotated[
        int, typer.Option(min=1, max=4, help="Settings tried a fold, the same number for each arm.")
    ] = 4,
    test: Annotated[
        Path | None, typer.Option(help="Score these rows instead of folds; no id may be in both.")
    ] = None,
    service: Service = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="arm.key=value over an arm's settings, e.g. sasrec.epochs=10."),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(help="NAME=predictions.jsonl: an arm that gplan evaluate has predicted."),
    ] = None,
    workers: Processes = 2,
) -> None:
    """Fit arms in every fold, tune them equally, and compare them with the floors in one table.

    Inside each fold a seventh of the training ids chooses among an arm's trials; the best is then
    fitted to all training rows with each seed. Stop it and run the same command again: what is
    fitted stays.

    Example: gplan baseline all --data rows.csv --out runs/table

    Example: gplan baseline sasrec,context_table --data rows.csv --out runs/quick --folds 2
    --seeds 1 --trials 1 --set sasrec.epochs=10

    Example: gplan baseline all --data train.csv --test test.csv --out runs/world
    --add gplan=run/test/predictions.jsonl

    Example: gplan baseline list
    """
    import sys

    from gplan_jax.baselines.rows.features import InputMode
    from gplan_jax.evaluation.comparison import known_arms, results
    from gplan_jax.evaluation.comparison import setup as comparison
    from gplan_jax.evaluation.comparison.compare import compare
    from gplan_jax.evaluation.comparison.comparison_table import comparison_table
    from gplan_jax.evaluation.comparison.worker_pool import LOG

    arms = known_arms.known_arms()
    if name == LIST:
        Console().print(known_arms.arms_table(arms))
        return
    if data is None or out is None:
        raise GplanError("Name the rows and a results directory: --data FILE --out DIR.")
    seen = InputMode(mode)
    names = known_arms.chosen_arms(
        [part.strip() for part in name.split(",") if part.strip()], arms, seen
    )
    overrides = comparison.parse_overrides(
        known_arms.overrides_of(set_ or [], arms), arms, names, trials
    )
    predicted = named_paths("--add", add or [], called=lambda path: path.stem, form="NAME=FILE")
    intents = service_of(service, data=data).library
    rows = (
        comparison.rows_of_files(data, test, intents)
        if test
        else comparison.rows_of_folds(data, intents, folds)
    )
    for reasons, what in (
        (rows.without_plan, "Left out, as there is no plan to learn or score"),
        (rows.not_learnt, "Scored but not learnt from, as the library does not admit the plan"),
    ):
        if reasons:
            typer.echo(f"{what}: {len(reasons)} rows, the first: {reasons[0]}.", err=True)
    setup = comparison.ComparisonSetup(
        rows, arms, tuple(names), overrides, seen, intents, trials, seeds, out
    )
    outcome = compare(setup, added=predicted, workers=workers, command=" ".join(sys.argv[1:]))
    if outcome.summary is not None:
        Console().print(comparison_table(outcome.about, outcome.summary))
        typer.echo(f"Finished. The result is in {out}")
        for what, name in (
            ("this table", f"{results.TABLE}, {results.MARKDOWN}"),
            ("every plan, row by row", results.PREDICTIONS),
            ("means, intervals, tests", results.SUMMARY),
            ("learning curves", results.CURVES),
            ("what was compared", results.COMPARISON),
            ("settings tried, every fit", "arms"),
        ):
            typer.echo(f"  {what:<26} {out / name}")
        typer.echo(f"For a page with figures: gplan report --run {out} --out {out}/report.html")
    failures: dict[tuple[str, str], list[str]] = {}
    for failed in outcome.about.failures:
        where = f"fold {failed.fold + 1}, seed {failed.seed}"
        failures.setdefault((failed.arm, failed.reason), []).append(where)
    for (arm_name, reason), places in failures.items():
        typer.echo(f"Failed: {arm_name}, {'; '.join(places)}: {reason}", err=True)
    if outcome.about.failures:
        typer.echo(
            f"{', '.join(outcome.about.unfinished)}: not in the table. {out / LOG} has the "
            "tracebacks; mend the cause and run the command again: what is fitted stays.",
            err=True,
        )
        raise typer.Exit(1)


def report(
    run: Annotated[
        list[str],
        typer.Option(
            help="The --out of a gplan baseline run, DIR or NAME=DIR; repeat it to show several "
            "side by side."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The HTML file; an earlier report there is replaced.")],
    service: Service = None,
) -> None:
    """Make one HTML file of baseline runs: tables, intervals, curves, slices, confusions.

    It opens anywhere, asks for nothing from the network, prints well, and holds no row's text.

    Example: gplan report --run run/baselines --out report.html

    Example: gplan report --run full=run/full --run history=run/history --out report.html
    """

    from gplan_jax.evaluation.comparison.results import COMPARISON, read_results
    from gplan_jax.evaluation.report.page import STEPS, refuse_foreign, write_report
    from gplan_jax.evaluation.report.page_tables import summary_table
    from gplan_jax.foundation.progress import ProgressBar
    from gplan_jax.gsisr.service import record_path

    refuse_foreign(out)
    folders = named_paths("--run", run, called=lambda path: path.name, form="NAME=DIR")
    runs = [read_results(folder, name) for name, folder in folders.items()]
    noted = next(iter(folders.values())) / COMPARISON
    if service is None and not record_path(noted).is_file():
        service = runs[0].about.library  # An older run notes the name alone.
    intents = service_of(service, data=noted).library
    with ProgressBar("report", STEPS * len(runs)) as bar:
        write_report(runs, out, intents, note=bar.advance)
    for found in runs:
        Console().print(summary_table(found))
    typer.echo(f"Finished. The report is in {out} ({out.stat().st_size / 1000:,.0f} kB)")
