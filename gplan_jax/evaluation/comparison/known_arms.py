"""The arms that can be asked for by name, and what is tried for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table

from gplan_jax.baselines.fitting.arms import ARMS, CONTEXT_FLOORS, NETWORKS, Arm, Arms
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.foundation.errors import GplanError, nearest
from gplan_jax.foundation.tables import TextTable

ALL = "all"
# Trained for much longer than a baseline: they take part only where they are named.
PLANNERS = {
    "picd": "gplan_jax.evaluation.comparison.planner_arms:PICD",
    "pause": "gplan_jax.evaluation.comparison.planner_arms:PAUSE",
    "cot_sft": "gplan_jax.evaluation.comparison.planner_arms:COT_SFT",
    "direct_sft": "gplan_jax.evaluation.comparison.planner_arms:DIRECT_SFT",
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
            raise GplanError(f"There is no arm {name!r}; {nearest(name, known)}")
    if not names:
        raise GplanError("Name the arms to compare, or all.")
    return [name for name in known if name in names]


def arms_table(arms: Mapping[str, Arm]) -> Table:
    """Name, title and search space of each arm."""
    rows = []
    for name, arm in arms.items():
        trials = (", ".join(f"{k}={v}" for k, v in trial.items()) for trial in arm.trials)
        rows.append((name, arm.title, "; ".join(trial or "defaults" for trial in trials)))
    caption = (
        "Trials are overrides of an arm's settings; the first is its defaults. Each arm gets the "
        "same number of them."
    )
    return TextTable(("Arm", "What it is", "Search space"), rows, words=3, caption=caption).rich()


def overrides_of(options: Sequence[str], known: Arms) -> dict[str, list[str]]:
    """``arm.key=value`` options as arm -> ["key=value", ...]."""
    found: dict[str, list[str]] = {}
    for option in options:
        name, dot, override = option.partition(".")
        if not dot or "=" not in override:
            raise GplanError(f"--set {option}: write arm.key=value, e.g. sasrec.epochs=10.")
        if name not in known:
            raise GplanError(f"--set {option}: there is no arm {name!r}; {nearest(name, known)}")
        found.setdefault(name, []).append(override)
    return found
