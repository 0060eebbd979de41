"""`gplan evaluate`, `score`, `plan`, `predict`, `compare`, `sensitivity`: a planner's figures and
plans, two planners on the same rows, and whether plans follow time and place.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from gplan_jax.cli import options
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import json_text

if TYPE_CHECKING:
    from gplan_jax.gsisr import RowForm


@options.with_decoding
def evaluate(
    model: options.Model,
    data: Annotated[Path, typer.Option(help="Labelled rows: .csv, .jsonl or .parquet.")],
    out: Annotated[Path, typer.Option(help="New directory for predictions and metrics.")],
    train_data: Annotated[Path | None, typer.Option(help="Rows to fit the floors on.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    on_error: options.OnError = "raise",
    batch_size: options.BatchSize = 16,
    mode: options.Mode = None,
    **decoding: Any,
) -> None:
    """Plan every row of a file and score the plans against their labels, beside the floors.

    Answers are decoded as `serve` decodes them, by the plan grammar. Latent-Valid is asked of free
    answers only: --mode unconstrained.

    Example: gplan evaluate --model run/model --data test.csv --out run/test
    """

    from gplan_jax.evaluation.scores.model_evaluation import evaluate_model
    from gplan_jax.evaluation.scores.offline import METRICS, PREDICTIONS
    from gplan_jax.evaluation.scores.score_tables import metrics_view
    from gplan_jax.models.checkpoints.hub import hub_name

    decoding = options.planning_options(model, data, decoding)
    metrics = evaluate_model(
        model,
        data,
        out,
        train_data=train_data,
        limit=limit,
        faulty=FaultyRows(on_error),
        batch_size=batch_size,
        mode=mode,
        **decoding,
    )
    Console().print(metrics_view(metrics, name=hub_name(model) or model.name))
    typer.echo(f"Finished. The result is in {out}")
    typer.echo(f"  every answer with its scores  {out / PREDICTIONS}")
    typer.echo(f"  means and intervals           {out / METRICS}")


def score(
    predictions: Annotated[Path, typer.Option(help="A predictions.jsonl: id, text, label a row.")],
    service: options.Service = None,
) -> None:
    """Compute the scores of a predictions file again, from its texts alone.

    Example: gplan score --predictions run/test/predictions.jsonl
    """

    from gplan_jax.evaluation.scores.offline import score_file
    from gplan_jax.evaluation.scores.score_tables import metrics_view

    found = options.service_of(service, data=predictions)
    metrics = score_file(predictions, found.library)
    Console().print(metrics_view(metrics, name="predictions"))
    typer.echo(f"Computed from the texts in {predictions}; nothing was written.")


@options.with_decoding
def plan(
    model: options.Model,
    data: Annotated[Path | None, typer.Option(help="Rows: .csv, .jsonl or .parquet.")] = None,
    row: Annotated[int | None, typer.Option(min=1, help="Row of the file, from 1.")] = None,
    prompt_id: Annotated[str | None, typer.Option("--id", help="Id of the row instead.")] = None,
    context: Annotated[
        Path | None, typer.Option(help="JSON object, column -> text, instead of a data file.")
    ] = None,
    mode: options.Mode = None,
    **decoding: Any,
) -> None:
    """Plan for one context and show the plan as a table.

    Example: gplan plan --model run/model --data test.csv --row 3

    Example: gplan plan --model run/model --context context.json
    """

    from gplan_jax.data.tasks.gsisr_task import GsisrTask
    from gplan_jax.data.tasks.registry import load_task
    from gplan_jax.evaluation.scores.model_evaluation import find_sample, read_context
    from gplan_jax.evaluation.scores.score_tables import plan_view
    from gplan_jax.inference.prediction.predict import load_planner

    def form() -> RowForm | None:
        told = options.planning_options(model, data, decoding)
        decoding.update(told)
        task = load_task(model, **{name: told.get(name) for name in ("template", "service")})
        return task.library.rows if isinstance(task, GsisrTask) else None

    if data is None and context is not None and row is None and prompt_id is None:
        sample = read_context(context, form())
    elif data is not None and context is None and (row is None) != (prompt_id is None):
        sample = find_sample(data, row=row, prompt_id=prompt_id, form=form())
    else:
        raise GplanError("Name the row: --data FILE with --row N or --id ID, or --context FILE.")
    planner = load_planner(model, batch_size=1, mode=mode, **decoding)
    known = planner.library  # before it plans: a model of another task has none
    [text] = planner.generate([sample])
    free = planner.mode == "unconstrained" and planner.task.has_latents
    latents = planner.encoder.latents if free else None
    view = plan_view(text, known, latents=latents, label=sample.raw_labels)
    Console().print(view)


@options.with_decoding
def predict(
    out: Annotated[Path, typer.Option(help="Directory of the plans; where it has some, goes on.")],
    model: Annotated[
        Path | None, typer.Option(help="A model directory, as convert or train writes it.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Contexts: .csv, .jsonl or .parquet, labelled or not.")
    ] = None,
    output: Annotated[
        Literal["jsonl", "parquet"], typer.Option(help="Kind of the files of plans.")
    ] = "jsonl",
    part_rows: Annotated[
        int, typer.Option(min=1, help="Rows a file of plans; what a kill costs at most.")
    ] = 1000,
    shard: Annotated[
        str | None, typer.Option(help="i/n: only the i-th of n equal parts of the rows.")
    ] = None,
    merge: Annotated[
        Path | None, typer.Option(help="Instead of planning: directory that holds all shards.")
    ] = None,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    address: options.Address = None,
    on_error: options.OnError = "raise",
    batch_size: options.BatchSize = 16,
    mode: options.Mode = None,
    **decoding: Any,
) -> None:
    """Plan every row of a file, however many there are, on all devices of this machine.

    Rows need no labels. Run again after a stop or a kill, the command goes on where it was.

    Example: gplan predict --model run/model --data contexts.parquet --out plans

    Example: gplan predict --model run/model --data contexts.csv --shard 1/4 --out shards/1

    Example: gplan predict --merge shards --out plans

    Example: gplan predict --engine ray --workers 8 --model run/model --data contexts.parquet
    --out plans
    """
    from gplan_jax.inference.prediction import predict as prediction
    from gplan_jax.inference.prediction.predict import MANIFEST, merge_shards

    if merge is not None and model is data is shard is None:
        manifest = merge_shards(merge, out)
    elif merge is None and model is not None and data is not None:
        faulty = FaultyRows(on_error, keep=20)
        decoding = options.planning_options(model, data, decoding)
        run: Any = functools.partial(prediction.predict, shard=shard)
        if engine == "ray":
            from gplan_jax.integrations.ray import predict_with_ray

            if shard is not None:
                raise GplanError("--engine ray makes shards itself; leave out --shard.")
            run = functools.partial(predict_with_ray, workers=workers, address=address)
        manifest = run(
            model,
            data,
            out,
            faulty=faulty,
            part_rows=part_rows,
            output=output,
            batch_size=batch_size,
            mode=mode,
            **decoding,
        )
        faulty.report()
    else:
        raise GplanError("Name --model and --data to plan, or --merge alone to merge shards.")
    answers = sum(part.answers for part in manifest.parts or ())
    typer.echo(f"Finished. {answers:,} plans are in {out}, in the order of the rows.")
    typer.echo(f"  plans                    {out}/part-*.{manifest.run['output']}")
    typer.echo(f"  what they are made from  {out / MANIFEST}")
    if shard:
        typer.echo(f"  with all other shards    gplan predict --merge {out.parent} --out DIR")


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
    on_error: options.OnError = "raise",
    batch_size: options.BatchSize = 16,
    max_new_tokens: options.MaxNewTokens = None,
) -> None:
    """Plan both contexts of every pair: does the plan change when it should, and to the right one?

    Example: gplan sensitivity --model picd=run/picd/model --model scdpo=run/scdpo/model --pairs
    test_pairs.jsonl --unchanged test_same.jsonl --log scdpo=run/scdpo/log.jsonl --out run/context
    """

    from gplan_jax.evaluation.sensitivity import model_comparison
    from gplan_jax.evaluation.sensitivity.model_comparison import sensitivity_view

    metrics = model_comparison.compare_sensitivity(
        {
            name: options.model_directory(path)
            for name, path in options.named_paths("--model", model).items()
        },
        pairs,
        out,
        unchanged=unchanged,
        logs=options.named_paths("--log", log or []),
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
