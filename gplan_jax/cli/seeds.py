"""`gplan seeds`: candidates, their review, the seed file, and the agreement of two reviewers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from gplan_jax.cli.options import OnError, Service, service_of
from gplan_jax.cli.synthesis import Cache, Overrides, Seeds, TeacherName, named_teacher
from gplan_jax.foundation.errors import require_extra
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import report_path, write_json

if TYPE_CHECKING:
    from gplan_jax import gsisr

seeds = typer.Typer(
    help="Seeds: expert-calibrated triplets of intents, environment and logic (section 3.2).",
    no_args_is_help=True,
)
EXTRA = ("fastapi", "prometheus_client", "uvicorn")

CandidatesFile = Annotated[
    Path | None, typer.Option(help="The candidates' file, where it isn't beside the review file.")
]


def service_of_review(named: str | None, review: Path, candidates: Path | None) -> gsisr.Service:
    """The service of a review: ``--service``, or what is recorded beside its candidates' file."""
    from gplan_jax.synthesis.seeds.seed_candidates import candidates_of

    return service_of(named, data=candidates or candidates_of(review))


@seeds.command()
def candidates(
    data: Annotated[Path, typer.Option(help="Rows: .csv, .jsonl or .parquet; labels optional.")],
    out: Annotated[Path, typer.Option(help="The review file to write: NAME.csv.")],
    count: Annotated[int, typer.Option(min=1, help="Candidates to draw.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same rows.")] = 0,
    teacher: TeacherName = "rules",
    overrides: Overrides = None,
    cache: Cache = None,
    seeds: Seeds = None,
    service: Service = None,
    on_error: OnError = "raise",
) -> None:
    """Draw rows over all triggers and places, with a plan and reasoning each, for experts to judge.

    A row with a plan keeps it; the teacher plans and explains where a row has none. A run that was
    stopped is continued by running it again: a chat teacher's answers are in its cache.

    Example: gplan seeds candidates --data rows.csv --out review.csv --count 1000
    """

    from gplan_jax.synthesis.seeds import draw_candidates
    from gplan_jax.synthesis.teachers.load import note_of

    draw_candidates.check_out(out)
    known, faulty = service_of(service, data=data), FaultyRows(on_error)
    loaded = known.library
    asked = named_teacher(teacher, overrides, cache, out, loaded, seeds)
    report = draw_candidates.write_review_files(
        data, out, loaded, asked, count=count, seed=seed, faulty=faulty
    )
    faulty.report()
    Console().print(draw_candidates.strata_table(report.strata, "candidates", "users"))
    origins = "; ".join(f"{origin} {n}" for origin, n in sorted(report.origins.items()))
    typer.echo(f"{report.candidates} candidates are in {out}.")
    typer.echo(f"  proposed by          {origins}")
    if report.candidates < count:
        typer.echo(f"  fewer than {count}       the data has no more users")
    if report.faulty:
        typer.echo(f"  with faults to mend  {report.faulty}; see the column faults")
    if spent := note_of(asked):
        typer.echo(f"  requests             {spent}")
    typer.echo(f"  their contexts       {report.candidates_path}; keep it beside the review file")
    typer.echo(f"  on a page            gplan seeds review {out} --reviewer NAME")
    typer.echo(f"  in a spreadsheet     copy it to {out.stem}.NAME.csv, and save as CSV UTF-8")


@seeds.command()
def review(
    file: Annotated[Path, typer.Argument(help="The review file, as candidates wrote it.")],
    reviewer: Annotated[str, typer.Option(help="Your name; part of your copy's name.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8010,
    candidates: CandidatesFile = None,
    service: Service = None,
) -> None:
    """Review candidates on a local page, by keys; each decision is saved at once in your own copy.

    Example: gplan seeds review review.csv --reviewer anna
    """

    require_extra(EXTRA, "serve", "the page")

    from gplan_jax.serving.review.review_app import serve_review

    known = service_of_review(service, file, candidates)
    serve_review(file, reviewer, known.library, port=port, candidates=candidates)


@seeds.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="Review files of the same candidates.")],
    out: Annotated[Path, typer.Option(help="The seed file: .csv, .jsonl or .parquet.")],
    undecided: Annotated[
        Literal["error", "skip"], typer.Option(help="List what nobody decided, or leave it out.")
    ] = "error",
    on_disagreement: Annotated[
        Literal["error", "first", "reject"],
        typer.Option(help="Where reviewers differ: list it, take the first file's, or leave out."),
    ] = "error",
    candidates: CandidatesFile = None,
    service: Service = None,
) -> None:
    """Make a seed file of what was accepted and edited, checked in full.

    Example: gplan seeds import review.anna.csv review.bo.csv --out seeds.csv
    --on-disagreement first
    """

    from gplan_jax.synthesis.seeds.draw_candidates import strata_table
    from gplan_jax.synthesis.seeds.import_reviews import import_reviews

    known = service_of_review(service, files[0], candidates)
    report = import_reviews(
        files,
        out,
        known.library,
        candidates_path=candidates,
        undecided=undecided,
        on_disagreement=on_disagreement,
    )
    Console().print(strata_table(report.strata, "seeds", "candidates"))
    counts = ", ".join(f"{report.verdicts.get(v, 0)} {v}" for v in ("accept", "edit"))
    typer.echo(f"{report.seeds} seeds of {report.candidates} candidates are in {out} ({counts}).")
    typer.echo(f"  rejected             {report.verdicts.get('reject', 0)}")
    if undecided == "skip":
        typer.echo(f"  undecided, left out  {report.undecided}")
    if len(files) > 1:
        rule = {"first": "the first file's counts", "reject": "left out", "error": "none"}
        typer.echo(f"  reviewers differ on  {len(report.disagreements)}: {rule[on_disagreement]}")
    typer.echo(f"  counts and rows      {report_path(out)}")


@seeds.command()
def agreement(
    first: Annotated[Path, typer.Argument(help="One reviewer's file.")],
    second: Annotated[Path, typer.Argument(help="Another reviewer's file.")],
    out: Annotated[
        Path | None, typer.Option(help="Where all of it goes as JSON, every differing row too.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap interval.")] = 0,
    candidates: CandidatesFile = None,
    service: Service = None,
) -> None:
    """Compare two reviewers: Cohen's kappa, raw agreement, and the rows they differ on.

    Example: gplan seeds agreement review.anna.csv review.bo.csv --out agreement.json
    """
    from dataclasses import asdict

    from gplan_jax.synthesis.seeds.review_file import read_reviews
    from gplan_jax.synthesis.seeds.reviewer_agreement import agreement_of, agreement_tables
    from gplan_jax.synthesis.seeds.seed_candidates import load_candidates

    loaded = service_of_review(service, first, candidates).library
    _, found = load_candidates([first, second], candidates, loaded)
    one, other = read_reviews([first, second], found, loaded)
    result = agreement_of(one, other, found, loaded, seed=seed)
    for table in agreement_tables(result, first.name, second.name):
        Console().print(table)
    typer.echo(
        f"{result.both} candidates were decided by both, {result.only_first} by {first.name} "
        f"alone, {result.only_second} by {second.name} alone."
    )
    if out is None:
        typer.echo("  every differing row  name a file with --out")
    else:
        write_json(out, {"first": str(first), "second": str(second), **asdict(result)})
        typer.echo(f"  all of it            {out}")
