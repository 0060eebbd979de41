"""`gplan evaluate`, `gplan score`, `gplan plan`: a planner's figures and its plans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Model = Annotated[Path, typer.Option(help="A model directory, as convert or train writes it.")]
Library = Annotated[
    Path | None, typer.Option(help="Intent library (YAML); else the model's own, else Amap's.")
]
Template = Annotated[
    str | None, typer.Option(help="Prompt template, a name or folder; else the model's own.")
]
PromptLength = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens that prompts are cut to; else as in training."),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Longest free answer, in tokens; else 512."),
]
Mode = Annotated[
    Literal["unconstrained", "constrained", "drafted"],
    typer.Option(
        help="Plain greedy decoding; by the plan grammar; or that in fewer passes with drafts."
    ),
]
Response = Annotated[
    Literal["plan", "latent"] | None,
    typer.Option(help="What answers hold, for the grammar; else what training stored."),
]
Temperature = Annotated[
    float, typer.Option(min=0.0, help="Draw from the grammar's tokens; 0 takes the likeliest.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the draws.")]
Beams = Annotated[int, typer.Option(min=1, help="Beam search for the likeliest whole plan.")]


def evaluate(
    model: Model,
    data: Annotated[Path, typer.Option(help="Labelled rows: .csv, .jsonl or .parquet.")],
    out: Annotated[Path, typer.Option(help="New directory for predictions and metrics.")],
    train_data: Annotated[
        Path | None, typer.Option(help="Training rows: the floors are fitted on them.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    on_error: Annotated[
        Literal["raise", "skip"], typer.Option(help="Stop at a faulty row, or leave it out.")
    ] = "raise",
    library: Library = None,
    template: Template = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows decoded together.")] = 16,
    prompt_length: PromptLength = None,
    max_new_tokens: MaxNewTokens = None,
    mode: Mode = "unconstrained",
    response: Response = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    beams: Beams = 1,
) -> None:
    """Plan every row of a file and score the plans against their labels, beside the floors.

    Latent-Valid is only honest without the grammar, which the default mode leaves out.

    Example: gplan evaluate --model run/model --data test.csv --out run/test
    """
    from rich.console import Console

    from gplan_jax.evaluation.scores.model_evaluation import evaluate_model
    from gplan_jax.evaluation.scores.offline import METRICS, PREDICTIONS
    from gplan_jax.evaluation.scores.score_tables import metrics_table
    from gplan_jax.foundation.faulty_rows import FaultyRows

    metrics = evaluate_model(
        model,
        data,
        out,
        train_data=train_data,
        limit=limit,
        faulty=FaultyRows(on_error),
        template=template,
        library=str(library) if library else None,
        batch_size=batch_size,
        prompt_length=prompt_length,
        max_new_tokens=max_new_tokens,
        mode=mode,
        response=response,
        temperature=temperature,
        seed=seed,
        beams=beams,
    )
    Console().print(metrics_table(metrics, name=model.name))
    typer.echo(f"Finished. The result is in {out}")
    typer.echo(f"  every answer with its scores  {out / PREDICTIONS}")
    typer.echo(f"  means and intervals           {out / METRICS}")


def score(
    predictions: Annotated[Path, typer.Option(help="A predictions.jsonl: id, text, label a row.")],
    library: Library = None,
) -> None:
    """Compute the scores of a predictions file again, from its texts alone.

    Example: gplan score --predictions run/test/predictions.jsonl
    """
    from rich.console import Console

    from gplan_jax.evaluation.scores.offline import score_file
    from gplan_jax.evaluation.scores.score_tables import metrics_table
    from gplan_jax.gsisr import IntentLibrary

    metrics = score_file(predictions, IntentLibrary.load(library))
    Console().print(metrics_table(metrics, name="predictions"))
    typer.echo(f"Computed from the texts in {predictions}; nothing was written.")


def plan(
    model: Model,
    data: Annotated[Path | None, typer.Option(help="Rows: .csv, .jsonl or .parquet.")] = None,
    row: Annotated[int | None, typer.Option(min=1, help="Row of the file, from 1.")] = None,
    prompt_id: Annotated[str | None, typer.Option("--id", help="Id of the row instead.")] = None,
    context: Annotated[
        Path | None, typer.Option(help="JSON object, column -> text, instead of a data file.")
    ] = None,
    library: Library = None,
    template: Template = None,
    prompt_length: PromptLength = None,
    max_new_tokens: MaxNewTokens = None,
    mode: Mode = "unconstrained",
    response: Response = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    beams: Beams = 1,
) -> None:
    """Plan for one context and show the plan as a table.

    Example: gplan plan --model run/model --data test.csv --row 3

    Example: gplan plan --model run/model --context context.json
    """
    from rich.console import Console

    from gplan_jax.evaluation.scores.model_evaluation import find_sample, read_context
    from gplan_jax.evaluation.scores.score_tables import plan_view
    from gplan_jax.foundation import GplanError
    from gplan_jax.inference.engine.planner import Planner

    if data is None and context is not None and row is None and prompt_id is None:
        sample = read_context(context)
    elif data is not None and context is None and (row is None) != (prompt_id is None):
        sample = find_sample(data, row=row, prompt_id=prompt_id)
    else:
        raise GplanError("Name the row: --data FILE with --row N or --id ID, or --context FILE.")
    planner = Planner.load(
        model,
        template=template,
        library=str(library) if library else None,
        prompt_length=prompt_length,
        max_new_tokens=max_new_tokens,
        batch_size=1,
        mode=mode,
        response=response,
        temperature=temperature,
        seed=seed,
        beams=beams,
    )
    known = planner.library  # before it plans: a model of another task has none
    [text] = planner.generate([sample])
    view = plan_view(text, known, latents=planner.encoder.latents, label=sample.raw_labels)
    Console().print(view)
