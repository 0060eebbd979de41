"""Commands that make data: contexts out of event logs, rows with plans and reasoning, pairs of
contexts, the filter.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from gplan_jax.cli.options import Address, Engine, OnError, Service, Workers, connection, service_of
from gplan_jax.foundation.faulty_rows import FaultyRows

if TYPE_CHECKING:
    from gplan_jax.gsisr import IntentLibrary
    from gplan_jax.synthesis.teachers.teacher import Teacher

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import report_path, write_json
from gplan_jax.foundation.paths import is_cloud, local_path

TeacherName = Annotated[
    str,
    typer.Option(
        help="rules, or a chat server: a teacher file (YAML), or one of gplan config list."
    ),
]
Seeds = Annotated[
    Path | None, typer.Option(help="Seed file; its rows are a chat teacher's examples.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value: replaces one value of the teacher file; repeatable."),
]
Cache = Annotated[
    Path | None,
    typer.Option(help="A chat teacher's paid answers; NAME.cache.sqlite beside OUT if left out."),
]


def triggers(
    log: Annotated[
        list[str] | None,
        typer.Option(help="A log: .csv, .jsonl, .parquet or a glob in quotes; repeat it for more."),
    ] = None,
    out: Annotated[str | None, typer.Option(help="Rows: .csv, .jsonl or .parquet.")] = None,
    rules: Annotated[
        Path | None, typer.Option(help="Trigger rules (YAML); the shipped ones if left out.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a key of the rules, e.g. log.columns.user=uid."),
    ] = None,
    users: Annotated[
        str | None, typer.Option(help="What is known about users: a row each, home, work ...")
    ] = None,
    memory_limit: Annotated[
        str, typer.Option(help="Memory for sorting; more than that is spilled beside OUT.")
    ] = "2GB",
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many rows.")] = None,
    on_error: OnError = "raise",
    engine: Annotated[
        Literal["local", "spark"],
        typer.Option(
            help="spark: over logs that no machine holds (s3a://..., no --limit); rows are Parquet "
            "files in the directory OUT. Under spark-submit or on this machine."
        ),
    ] = "local",
    example_log: Annotated[
        Path | None, typer.Option(help="Write a made-up log to try it on into this new directory.")
    ] = None,
    example_users: Annotated[int, typer.Option(min=1, help="Users of the made-up log.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same log.")] = 0,
    service: Service = None,
) -> None:
    """Find moments of several needs in event logs and write them as rows without labels.

    An arrival in another city, an active hotel, ticket, ride, fuel or charging order: the rules
    say what counts. Counts and settings are kept beside OUT as NAME.report.json.

    Example: gplan triggers --example-log logs; gplan triggers --log logs/events.csv
    --users logs/users.csv --out contexts.csv

    Example: spark-submit ... gplan triggers --engine spark --log 's3a://logs/*.parquet'
    --out s3a://contexts
    """
    from gplan_jax.gsisr.service import record_service
    from gplan_jax.synthesis.triggers import example_log as example
    from gplan_jax.synthesis.triggers import write_contexts as contexts
    from gplan_jax.synthesis.triggers.trigger_spec import load_triggers

    if example_log is not None:
        if log or out:
            raise GplanError("--example-log writes a log; read it with a second command.")
        events = example.write_example_log(example_log, example_users, seed)
        made = f"{events:,} events of {example_users:,} made-up users"
        typer.echo(f"{made} are in {example_log / example.EVENTS_FILE}.")
        typer.echo(f"  what is known of some  {example_log / example.USERS_FILE}")
        typer.echo(f"  the rules, to change   {example_log / example.RULES_FILE}")
        return
    if not log or out is None:
        raise GplanError("Name a log and an output: gplan triggers --log FILE --out FILE.")

    spec = load_triggers(rules, change or ())
    if service is None:
        typer.echo("service: amap (the shipped rules'; --service names another)", err=True)
    found = service_of(service or "amap")
    spec = spec.model_copy(update={"rows": found.library.rows})
    faulty = FaultyRows(on_error, keep=20)
    if engine == "spark":
        from gplan_jax.integrations import spark

        if limit is not None or len(log) > 1:
            raise GplanError("--engine spark takes one --log (a glob in quotes) and no --limit.")
        session, delimiter = spark.spark_session(), spec.log.delimiter
        known = users and spark.read_log(session, users, delimiter)
        rows = spark.trigger_rows(
            spark.read_log(session, log[0], delimiter),
            spec,
            known,
            on_error=on_error,
            memory_limit=memory_limit,
        )
        report = spark.write_rows(rows, str(out))
        kept = report_path(Path(out).name if is_cloud(out) else out)
        write_json(kept, report)
    else:
        kept = report_path(local_path(out))
        report = contexts.write_contexts(
            log,
            local_path(out),
            spec,
            users=users and local_path(users),
            memory_limit=memory_limit,
            faulty=faulty,
            limit=limit,
        ).to_dict(spec)
    if not is_cloud(out):
        record_service(found.library, local_path(out))
    faulty.report()
    Console().print(contexts.report_table(report))
    typer.echo(
        f"{report['rows']:,} rows of {report['users']:,} users ({report['events']:,} events) are "
        f"in {out}."
    )
    if report["stopped_at_limit"]:
        typer.echo(f"  stopped at             --limit {limit}; the log goes on")
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report["faulty"].items())
    skipped = sum(report["faulty"].values())
    typer.echo(f"  faulty rows skipped    {skipped:,}" + (f" ({kinds})" if kinds else ""))
    typer.echo(f"  events given twice     {report['duplicates']:,}")
    if report["ignored"]:
        typer.echo(f"  events of other words  {report['ignored']:,}")
    if report["undeclared_years"]:
        years = ", ".join(map(str, report["undeclared_years"]))
        typer.echo(f"  no holidays declared   for {years}: holidayflag is 0 there")
    typer.echo(f"  counts and settings    {kept}")


def synthesize(
    out: Annotated[Path, typer.Option(help="Where rows go: .csv, .jsonl or .parquet.")],
    rows: Annotated[
        int | None, typer.Option(min=1, help="Rows of the simulated world to keep.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Contexts to plan for, instead of --rows; any rows do.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take the first rows of --data only.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the world and of the split.")] = 0,
    test_fraction: Annotated[
        float, typer.Option(help="Share of the users whose rows go to NAME_test beside OUT.")
    ] = 0.0,
    seeds: Seeds = None,
    teacher: TeacherName = "rules",
    overrides: Overrides = None,
    cache: Cache = None,
    compare: Annotated[
        Path | None,
        typer.Option(help="Rows whose plans the report compares with; the seeds if left out."),
    ] = None,
    engine: Engine = "local",
    workers: Workers = None,
    address: Address = None,
    service: Service = None,
    on_error: OnError = "raise",
) -> None:
    """Ask a teacher for a plan and its reasoning in every context, and keep what passes the filter.

    Beside OUT stand NAME_test (rows of other users), NAME.removed.jsonl (each removed row and why),
    NAME.origin.jsonl (where each kept row comes from) and NAME.report.json. A run that was stopped
    is continued by running it again: a chat teacher's answers are in its cache.

    Example: gplan synthesize --service amap --rows 5000 --out world.csv --test-fraction 0.1

    Example: gplan synthesize --data contexts.csv --seeds seeds.csv --teacher teacher.yaml
    --out rows.csv --test-fraction 0.1

    Example: gplan synthesize --engine ray --workers 8 --data contexts.csv --teacher teacher.yaml
    --out rows.csv
    """

    from gplan_jax.synthesis.factory import synthesize as factory
    from gplan_jax.synthesis.factory.factory_report import mix_table, removal_table

    settings = factory.SynthesisSettings(
        out=out,
        rows=rows,
        data=data,
        limit=limit,
        seed=seed,
        test_fraction=test_fraction,
        seeds=seeds,
        teacher=teacher,
        overrides=tuple(overrides or ()),
        cache=cache,
        compare=compare,
        connect=connection(engine, workers, address),
    )
    faulty = FaultyRows(on_error)
    found = service_of(service, data=data)
    result = factory.synthesize(settings, found.library, faulty=faulty)
    faulty.report()
    console = Console()
    console.print(removal_table(result.report))
    console.print(mix_table(result.report, result.compared))
    typer.echo(factory.end_message(result))
    result.report.check_kept(result.files.removed)


def filter_rows(
    data: Annotated[Path, typer.Option(help="Rows with plans: .csv, .jsonl or .parquet.")],
    out: Annotated[Path, typer.Option(help="Where the rows that pass go, same kinds.")],
    service: Service = None,
    on_error: OnError = "raise",
) -> None:
    """Re-apply the filter (format, schema, logic) to rows that have plans, and keep what passes.

    Beside OUT stand NAME.removed.jsonl (each other row and why) and NAME.report.json.

    Example: gplan filter --data rows.csv --out kept.csv
    """

    from gplan_jax.synthesis.factory.labelled_files import filter_file, pass_rate_table
    from gplan_jax.synthesis.factory.output_files import OutputFiles

    faulty = FaultyRows(on_error)
    found = service_of(service, data=data)
    report, rates = filter_file(data, out, found.library, faulty=faulty)
    faulty.report()
    Console().print(pass_rate_table(rates))
    files = OutputFiles(out)
    typer.echo(f"{report.kept:,} of {rates.rows:,} rows pass and are in {out}.")
    typer.echo(f"  removed, with reasons  {rates.failed:,}, in {files.removed}")
    typer.echo(f"  counts                 {files.report}")
    report.check_kept(files.removed)


def explain(
    data: Annotated[Path, typer.Option(help="Rows with plans: .csv, .jsonl or .parquet.")],
    out: Annotated[Path, typer.Option(help="Where the rows with reasoning go, same kinds.")],
    seeds: Seeds = None,
    teacher: TeacherName = "rules",
    overrides: Overrides = None,
    cache: Cache = None,
    service: Service = None,
    on_error: OnError = "raise",
) -> None:
    """Write a structured reasoning trace before the plan of every row.

    The rules explain plans by the facts of the row; a chat teacher explains them in its own words,
    and is continued from its cache where it was stopped.

    Example: gplan explain --data gsisr_dev.csv --out explained.csv --on-error skip
    """

    from gplan_jax.synthesis.factory.labelled_files import explain_file
    from gplan_jax.synthesis.teachers.load import note_of

    found = service_of(service, data=data)
    loaded = named_teacher(teacher, overrides, cache, out, found.library, seeds)
    faulty = FaultyRows(on_error)
    report = explain_file(data, out, found.library, teacher=loaded, faulty=faulty)
    faulty.report()
    typer.echo(f"{report.rows} rows with reasoning are in {out}, {report.skipped} skipped.")
    typer.echo(f"  characters a row      {report.mean_characters:,.0f}, of reasoning")
    if spent := note_of(loaded):
        typer.echo(f"  requests of this run  {spent}")


def counterfactuals(
    data: Annotated[Path, typer.Option(help="Anchor rows: .csv, .jsonl or .parquet.")],
    out: Annotated[Path, typer.Option(help="Where the pairs go: a .jsonl file.")],
    unchanged: Annotated[
        Path | None,
        typer.Option(help="Where pairs go whose two plans are equal; dropped if left out."),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(help="Perturbation spec (YAML); the service's if left out."),
    ] = None,
    per_anchor: Annotated[int, typer.Option(min=1, help="Most pairs of a row.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same pairs.")] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take the first rows only as anchors.")
    ] = None,
    seeds: Seeds = None,
    teacher: TeacherName = "rules",
    overrides: Overrides = None,
    cache: Cache = None,
    service: Service = None,
    on_error: OnError = "raise",
) -> None:
    """Put every row into another time or place and write pairs of contexts with their own plans.

    The teacher plans for both contexts of a pair. Counts and settings are kept beside OUT as
    NAME.report.json. A run that was stopped is continued by running it again.

    Example: gplan counterfactuals --data world.csv --out pairs.jsonl --unchanged same.jsonl
    """

    from gplan_jax.synthesis.pairs import counterfactuals as pairs
    from gplan_jax.synthesis.pairs.perturbations import load_spec
    from gplan_jax.synthesis.teachers.load import note_of

    found = service_of(service, data=data)
    loaded = named_teacher(teacher, overrides, cache, out, found.library, seeds)
    faulty = FaultyRows(on_error)
    report = pairs.write_counterfactuals(
        data,
        out,
        found.library,
        unchanged=unchanged,
        spec=load_spec(spec, found.library),
        teacher=loaded,
        per_anchor=per_anchor,
        seed=seed,
        limit=limit,
        faulty=faulty,
    )
    faulty.report()
    Console().print(pairs.report_table(report))
    typer.echo(
        f"{report.total('pair')} pairs of {report.anchors} rows are in {out}; "
        f"{report.without_pair} rows gave none."
    )
    kept = f"in {unchanged}" if unchanged else "dropped; --unchanged FILE keeps them"
    typer.echo(f"  pairs with equal plans  {report.total('equal')}, {kept}")
    typer.echo(f"  faults skipped          {report.skipped}{report.reasons()}")
    if spent := note_of(loaded):
        typer.echo(f"  requests of this run    {spent}")
    typer.echo(f"  counts and settings     {report_path(out)}")


def named_teacher(
    teacher: str,
    overrides: list[str] | None,
    cache: Path | None,
    out: Path,
    library: IntentLibrary,
    seeds: Path | None,
) -> Teacher:
    """Who answers, as the options of a command that writes ``out`` say."""
    from gplan_jax.synthesis.factory.output_files import OutputFiles
    from gplan_jax.synthesis.teachers.load import load_teacher
    from gplan_jax.synthesis.teachers.seed_selection import read_seeds

    examples = read_seeds(seeds, library) if seeds else []
    cache = cache or OutputFiles(out).cache
    return load_teacher(teacher, overrides or [], cache, library, examples)
