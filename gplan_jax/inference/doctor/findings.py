"""What a check found, and the table of it."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

State = Literal["ok", "slow", "wrong", "absent"]


@dataclass(frozen=True)
class Finding:
    """One row: "slow" costs time, "wrong" gives wrong results or none, "absent" isn't here."""

    check: str
    state: State
    seen: str
    mend: str = ""  # what to do where the state is not ok


def instead_of(name: str) -> str:
    """What a run does without a check's kernel, where it has another."""
    other = name.startswith(("attention cudnn", "attention splash"))
    return "; until then runs take xla (precision.attention=auto)" if other else ""


def describe(findings: Sequence[Finding]) -> str:
    """A row a check, then the mends and how many there are of each state; 80 characters a line."""
    rows, mends = [], [""]
    wrap = partial(textwrap.fill, width=80, break_on_hyphens=False)
    for one in findings:
        start = f"{one.check:<22} {one.state:<6} "
        rows.append(wrap(start + one.seen, subsequent_indent=" " * len(start)))
        if one.mend:
            mends.append(wrap(f"{one.state}: {one.check}: {one.mend}", subsequent_indent="  "))
    counts = Counter(one.state for one in findings)
    total = ", ".join(f"{counts[state]} {state}" for state in get_args(State) if counts[state])
    return "\n".join([*rows, *mends, "", total])
