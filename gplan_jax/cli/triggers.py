"""`gplan triggers`: rows to plan for out of raw event logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from gplan_jax.cli.options import OnError, Service, service_of
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import write_json
from gplan_jax.foundation.paths import is_cloud, local_path


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
        kept = contexts.report_path(Path(out).name if is_cloud(out) else out)
        write_json(kept, report)
    else:
        kept = contexts.report_path(local_path(out))
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
