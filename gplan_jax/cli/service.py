"""`gplan service`: describe a service of your own, and check it and its rows."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import refuse_existing
from gplan_jax.foundation.tables import TextTable

service = typer.Typer(
    no_args_is_help=True, help="Services: tools, columns, prompts and rules, in one directory."
)
SKELETON = Path(__file__).parents[1] / "gsisr" / "skeleton"


@service.command("list")
def list_services() -> None:
    """Name the shipped services; commands take such a name, or the directory of another service.

    Example: gplan service list
    """
    from gplan_jax.gsisr.service import Service, shipped

    rows = []
    for name in shipped():
        one = Service.load(name)
        rows.append((name, one.file.about, str(len(one.library.tools)), str(len(one.form.columns))))
    Console().print(TextTable(("name", "what it is", "tools", "columns"), rows, words=2).rich())
    typer.echo("Yours:  gplan service init DIR")


@service.command("init")
def init_service(
    directory: Annotated[Path, typer.Argument(help="New directory; its name names the service.")],
) -> None:
    """Write a small service, commented, to change into your own; it works as it is.

    Example: gplan service init my_service
    """
    from gplan_jax.gsisr.service import Service

    refuse_existing(directory)
    name = directory.resolve().name
    if not (name.isascii() and name.isidentifier() and name.islower()):
        raise GplanError(f"{name} can't name a service; use small letters, digits and _.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(SKELETON, directory, dirs_exist_ok=True)
    for file in ("service.yaml", "library.yaml"):
        text = (directory / file).read_text(encoding="utf-8")
        (directory / file).write_text(text.replace("my_service", name), encoding="utf-8")
    Service.load(directory)
    typer.echo(f"Written. The service is in {directory}; docs/services.md explains its files.")
    typer.echo(
        f"  rows to try it on  gplan synthesize --service {directory} --rows 300 --out rows.csv"
    )
    typer.echo(f"  check your own     gplan service check {directory} --data FILE")


@service.command("check")
def check_service(
    directory: Annotated[str, typer.Argument(help="A service's directory, or a shipped name.")],
    data: Annotated[
        Path | None, typer.Option(help="Rows, to see what is missing or odd in each column.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows to read at most.")] = 10_000,
) -> None:
    """Read every part of a service and name what does not fit, then look at rows.

    Example: gplan service check my_service --data rows.csv
    """
    from gplan_jax.evaluation.judge.rubric import Rubric
    from gplan_jax.gsisr import service as services
    from gplan_jax.gsisr.service import check_rows
    from gplan_jax.synthesis.pairs.perturbations import load_spec
    from gplan_jax.synthesis.rules.service_rules import ServiceRules
    from gplan_jax.synthesis.world.data_world import load_world

    found = services.Service.load(directory)
    parts = [services.FILE, services.LIBRARY, *(f"prompts/{name}" for name in found.prompts)]
    for part, load in (
        (services.RULES, lambda: ServiceRules(found.library)),
        (services.PERTURBATIONS, lambda: load_spec(library=found.library)),
        (services.RUBRIC, lambda: Rubric.load(found.folder / services.RUBRIC)),
        (services.WORLD, lambda: load_world(found.library)),
    ):
        if (found.folder / part).is_file():
            load()
            parts.append(part)
    typer.echo(
        f"{found.name}: {len(found.library.tools)} tools, {len(found.form.columns)} columns."
    )
    typer.echo(f"  read and sound  {', '.join(parts)}")
    if data is None:
        return
    reports, rows = check_rows(data, found.library, limit=limit)
    table = [
        (r.column, r.role, f"{r.filled / max(rows, 1):.0%}", r.said(), r.example) for r in reports
    ]
    headings = ("column", "role", "filled", "what is odd", "for example")
    Console().print(TextTable(headings, table, words=5).rich())
    odd = Counter(bool(report.odd) for report in reports)[True]
    typer.echo(f"{rows:,} rows of {data} were read; columns with something odd: {odd}.")
    if not odd:
        typer.echo(f"  next  gplan explain --service {directory} --data {data} --out explained.csv")
