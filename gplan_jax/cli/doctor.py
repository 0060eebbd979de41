"""`gplan doctor`: what works on this machine, and how fast it is."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    check_seconds: Annotated[
        float, typer.Option(min=1, help="Longest time that one check may take.")
    ] = 120,
) -> None:
    """Check devices, kernels, collectives and limits of this machine, in about a minute.

    Kernels are compared with a plain computation, forward and gradient; products, copies and
    collectives are timed. Rows are ok, slow, wrong or absent; exits with 1 where one is wrong.

    Example: gplan doctor --json > doctor.json
    """
    from gplan_jax.foundation.files import json_text
    from gplan_jax.inference.doctor.machine import Finding, describe
    from gplan_jax.inference.doctor.run import examine

    typer.echo("looking at this machine: about a minute, more on a busy one", err=True)
    findings: list[Finding] = []
    try:
        examine(findings, check_seconds)
    finally:  # Also what was found until it was told to stop.
        rows = [dataclasses.asdict(finding) for finding in findings]
        typer.echo(json_text(rows, indent=1) if as_json else describe(findings))
    raise typer.Exit(int(any(finding.state == "wrong" for finding in findings)))
