"""`gplan tasks`: public reasoning tasks, generated and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from gplan_jax.foundation import GplanError

Name = Literal["parity", "multiplication", "prosqa"]
Split = Literal["train", "validation", "test", "hops7", "hops8", "dense", "fanout"]
PUBLISHED = {  # rows of the splits, in their order
    "parity": [100_000, 1_000, 1_000],
    "multiplication": [808_000, 1_000, 1_000],
    "prosqa": [17_886, 300, 500, 1_000, 1_000, 1_000, 1_000],
}


def tasks(
    name: Annotated[Name | None, typer.Argument(help="The task.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the rows go: FILE.jsonl.")] = None,
    split: Annotated[Split, typer.Option(help="From hops7 on: prosqa's.")] = "train",
    rows: Annotated[int | None, typer.Option(min=1, help="As published if left out.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same rows.")] = 0,
    digits: Annotated[int, typer.Option(min=2, max=50, help="Of a factor.")] = 4,
    bits: Annotated[int, typer.Option(min=1, max=256, help="Of a parity question.")] = 64,
    k: Annotated[int, typer.Option(min=1, help="Bits that count.")] = 8,
    check: Annotated[list[Path] | None, typer.Option(help="A file to check; repeatable.")] = None,
) -> None:
    """Write questions with reasoning and answers, each checked; two splits share no question.

    Example: gplan tasks multiplication --digits 4 --split test --out test.jsonl;
    gplan tasks --check train.jsonl --check test.jsonl
    """
    from gplan_jax.foundation.files import read_jsonl, write_jsonl
    from gplan_jax.foundation.progress import track
    from gplan_jax.reasoning_tasks.questions import (
        check_rows,
        multiplication_rows,
        parity_rows,
        prosqa_rows,
    )

    seen: set[str] = set()
    for path in check or ():
        count = sum(1 for _ in track(check_rows(path, read_jsonl(path), seen), path.name))
        typer.echo(f"{count:,} rows of {path} are right, and new: no id or prompt came before.")
    if check:
        return
    if not name or not out:
        raise GplanError("Name a task and an output: gplan tasks prosqa --out train.jsonl.")
    sizes = dict(zip(get_args(Split), PUBLISHED[name], strict=False))
    if split not in sizes:
        raise GplanError(f"{name} has no split {split}; it has {', '.join(sizes)}.")
    rows = rows or sizes[split]
    match name:
        case "parity":
            made = parity_rows(split, rows, seed, bits=bits, k=k)
        case "multiplication":
            made = multiplication_rows(split, rows, seed, digits=digits)
        case "prosqa":
            made = prosqa_rows(split, rows, seed)
    write_jsonl(out, track(check_rows(out, made, seen), f"{name}, {split}", rows))
    typer.echo(f"{rows:,} rows of {name} ({split}, seed {seed}) are in {out}; each was checked.")
    typer.echo(f"  latent tokens for its steps    gplan convert QWEN3 --out MODEL --latents {out}")
    typer.echo(f"  train on them    gplan train CONFIG.yaml data.task=text data.train={out}")
