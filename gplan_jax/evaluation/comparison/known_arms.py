"""The arms that can be asked for by name, and what is tried for each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from gplan_jax.baselines.fitting.arms import ARMS, NETWORKS, Arm, Arms, LazyArm
from gplan_jax.baselines.floors.registry import CONTEXT_FLOORS
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.foundation.errors import GplanError

ALL = "all"
_PLANNER_ARMS = "gplan_jax.evaluation.comparison.planner_arms"
# Trained for much longer than a baseline: they take part only where they are named.
PLANNERS = {
    "picd": LazyArm(_PLANNER_ARMS, "PICD"),
    "pause": LazyArm(_PLANNER_ARMS, "PAUSE"),
    "direct_sft": LazyArm(_PLANNER_ARMS, "DIRECT_SFT"),
}


def known_arms() -> Arms:
    """Every arm by its name, in the order of a table: networks, planners, floors."""
    floors = {name: entry for name, entry in ARMS.entries.items() if name not in NETWORKS}
    return Arms({**NETWORKS, **PLANNERS, **floors})


def chosen_arms(wanted: Iterable[str], known: Arms, mode: InputMode) -> list[str]:
    """The names asked for, in the order of ``known``.

    "all" is all but the planners and, in the history mode, the floors that know nothing but the
    context.
    """
    names: set[str] = set()
    for name in wanted:
        if name == ALL:
            hidden = CONTEXT_FLOORS if mode is InputMode.HISTORY else frozenset()
            names |= set(known) - set(PLANNERS) - hidden
        elif name in known:
            names.add(name)
        else:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise GplanError(f"There is no arm {name!r}; {hint}")
    if not names:
        raise GplanError("Name the arms to compare, or all.")
    return [name for name in known if name in names]


def arms_table(arms: Mapping[str, Arm]) -> Table:
    """Name, title and search space of each arm."""
    table = Table(
        caption="Trials are overrides of an arm's settings; the first is its defaults. Each arm "
        "gets the same number of them.",
        caption_justify="left",
    )
    for heading in ("Arm", "What it is", "Search space"):
        table.add_column(heading)
    for name, arm in arms.items():
        table.add_row(name, Text(arm.title), Text("; ".join(map(_override_text, arm.trials))))
    return table


def overrides_of(options: Sequence[str], known: Arms) -> dict[str, list[str]]:
    """``arm.key=value`` options as arm -> ["key=value", ...]."""
    found: dict[str, list[str]] = {}
    for option in options:
        name, dot, override = option.partition(".")
        if not dot or "=" not in override:
            raise GplanError(f"--set {option}: write arm.key=value, e.g. sasrec.epochs=10.")
        if name not in known:
            raise GplanError(f"--set {option}: there is no arm {name!r}; known: {', '.join(known)}")
        found.setdefault(name, []).append(override)
    return found


def _override_text(trial: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in trial.items()) or "defaults"
