"""`gplan config`: the configs that come with the package, to look at and to change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import shipped_configs
from gplan_jax.foundation.files import write_text
from gplan_jax.foundation.tables import TextTable

config = typer.Typer(
    no_args_is_help=True, help="The configs that come with GPlan, to look at and to change."
)


def _names(incomplete: str) -> list[str]:
    return [name for name in shipped_configs() if name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(help="As gplan config list names it.", autocompletion=_names)]


@config.command("list")
def list_configs() -> None:
    """Name the configs that come with GPlan; a command takes such a name for a file.

    Example: gplan config list
    """
    rows = []
    for name, path in shipped_configs().items():
        with path.open(encoding="utf-8") as lines:
            rows.append((name, next(lines).removeprefix("# ").strip()))
    Console().print(TextTable(("name", "what it is"), rows, words=2, plain=True).rich())
    typer.echo("Use one by its name:   gplan train picd_qwen3_1_7b data.train=rows.csv")
    typer.echo("Or change it first:    gplan config write picd_qwen3_1_7b")


@config.command("show")
def show_config(name: Name) -> None:
    """Print a config, with its comments.

    Example: gplan config show picd_qwen3_1_7b
    """
    typer.echo(_text(name), nl=False)


@config.command("write")
def write_config(
    name: Name,
    out: Annotated[Path | None, typer.Option(help="File to write; else NAME.yaml here.")] = None,
) -> None:
    """Write a config as a file of your own, to change.

    Example: gplan config write picd_qwen3_1_7b --out my_run.yaml
    """
    text, out = _text(name), out or Path(f"{name}.yaml")
    if out.exists():
        raise GplanError(f"{out} exists and is never overwritten; name another file with --out.")
    write_text(out, text)
    typer.echo(f"Written. The config is in {out}")
    if "\nmode:" in text:
        typer.echo(f"  once changed  gplan train {out} [KEY=VALUE]...")


def _text(name: str) -> str:
    shipped = shipped_configs()
    if name not in shipped:
        raise GplanError(f"GPlan ships no config {name!r}; it has {', '.join(shipped)}.")
    return shipped[name].read_text(encoding="utf-8")
