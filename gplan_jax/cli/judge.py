"""`gplan judge`: plans scored without their labels, by rules or language models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from gplan_jax.cli import options
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import refuse_existing

if TYPE_CHECKING:
    from gplan_jax.evaluation.judge.judgement import Judge

RULES = "rules"


def judge(
    data: Annotated[Path, typer.Option(help="The rows planned for: .csv, .jsonl or .parquet.")],
    out: Annotated[Path, typer.Option(help="New directory for the judgements and their means.")],
    predictions: Annotated[
        list[str] | None,
        typer.Option(
            help="A predictions.jsonl of gplan evaluate, FILE or NAME=FILE; repeat for more."
        ),
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="Also judge the rows' own labels, as a calibration.")
    ] = False,
    train_data: Annotated[
        Path | None, typer.Option(help="Also judge the floors, fitted on these labelled rows.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Compare --predictions with this second file instead of scoring."),
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="rules (the default), or a YAML file or gplan config name; repeat for more."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value over every judge file, e.g. server.budget=5."),
    ] = None,
    combine: Annotated[
        Literal["mean", "majority"], typer.Option(help="How several judges become one.")
    ] = "mean",
    filtered: Annotated[
        bool, typer.Option("--filtered", help="Only plans that pass the rule filter, as the paper.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    cache: Annotated[
        Path | None, typer.Option(help="Where paid replies are kept; else OUT.cache.sqlite.")
    ] = None,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    address: options.Address = None,
    service: options.Service = None,
    on_error: options.OnError = "raise",
) -> None:
    """Score plans for flow, logic and fit to time and place, 1 to 5, without showing their labels.

    "rules" is no language model: it checks stage order, time fit, place fit and order state.

    Example: gplan judge --predictions run/test/predictions.jsonl --data test.csv --out run/judged

    Example: gplan judge --predictions a.jsonl --against b.jsonl --data test.csv --out run/pairs
    --judge judge_vllm

    Example: gplan judge --engine ray --workers 8 --predictions a.jsonl --data test.csv
    --out run/judged --judge judge_vllm
    """

    from gplan_jax.chat.ledger import spent_line
    from gplan_jax.evaluation.judge import judge_tables, judging, sources
    from gplan_jax.evaluation.judge.chat_judge import ChatJudge, JudgeConfig
    from gplan_jax.evaluation.judge.rules import RuleJudge
    from gplan_jax.foundation.errors import GplanError, NothingKept

    if not (predictions or labels or train_data):
        raise GplanError("Nothing to judge: give --predictions FILE, --labels or --train-data.")
    if against is not None and (len(predictions or []) != 1 or labels or train_data):
        raise GplanError(
            "--against compares two files: one --predictions, and no --labels or --train-data."
        )
    refuse_existing(out)
    cache = cache or out.with_name(f"{out.name}.cache.sqlite")
    intents = options.service_of(service, data=data).library
    faulty = FaultyRows(on_error)
    rows = sources.read_rows(data, intents, limit=limit, faulty=faulty)
    faulty.report()
    cut = limit is not None
    plans = {
        name: sources.plans_of_predictions(name, path, rows, intents, cut=cut)
        for name, path in _named("--predictions", predictions or []).items()
    }
    connect = options.connection(engine, workers, address)
    judges: list[Judge] = [
        RuleJudge(intents)
        if spec == RULES
        else ChatJudge(JudgeConfig.load(spec, set_ or []), cache, intents, connect)
        for spec in judge or [RULES]
    ]
    paid = cache.exists()
    about: dict[str, Any] = {"data": str(data), "limit": limit, "predictions": predictions or []}
    settings: dict[str, Any] = {"combine": combine, "seed": seed, "filtered": filtered}
    try:
        if against is None:
            if labels:
                plans[sources.LABELS] = sources.plans_of_labels(rows, intents)
            if train_data is not None:
                plans |= sources.plans_of_floors(rows, train_data, intents)
            everything = [plan for of_source in plans.values() for plan in of_source]
            result = judging.judge_plans(everything, judges, out, **settings, run=about)
        else:
            [first] = plans.values()
            [(name, path)] = _named("--against", [against]).items()
            name = f"{name} (against)" if name in plans else name
            second = sources.plans_of_predictions(name, path, rows, intents, cut=cut)
            about["against"] = against
            result = judging.compare_plans(first, second, judges, out, **settings, run=about)
    except KeyboardInterrupt:
        if paid:
            typer.echo(f"Every paid reply is in {cache}; run the command again to go on.", err=True)
        raise
    described = result["judges"] if against is None else result["judged_by"]
    show = judge_tables.scores_table if against is None else judge_tables.pairs_table
    Console().print(show(result))
    for warning in judge_tables.warnings_of(described):
        typer.echo(f"Warning: {warning}", err=True)
    for line in judge_tables.unscored_of(result):
        typer.echo(line)
    typer.echo(f"Finished. The result is in {out}")
    each = judging.JUDGEMENTS if against is None else judging.COMPARISONS
    typer.echo(f"  every score with its reason  {out / each}")
    typer.echo(f"  means, intervals, settings   {out / judging.RESULT}")
    if paid:
        typer.echo(f"  paid replies, for a rerun    {cache}")
    for one in judges:
        if note := one.note():
            typer.echo(f"  {one.name}, in all  {spent_line(described[one.name]['spent'])}")
            typer.echo(f"  {one.name}, this run  {note}")
    if silent := judge_tables.silent_judges(result):
        raise NothingKept(f"No plan was scored by {', '.join(silent)}; {out / each} says why.")


def _named(option: str, values: list[str]) -> dict[str, Path]:
    """NAME=FILE, or FILE alone, which is called as its directory is (test/predictions.jsonl)."""

    def called(path: Path) -> str:
        generic = path.stem == "predictions" and path.parent.name
        return path.parent.name if generic else path.stem

    return options.named_paths(option, values, called=called, form="NAME=FILE")
