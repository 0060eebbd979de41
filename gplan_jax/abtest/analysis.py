"""From a log to a summary: what `gplan abtest analyse` computes and writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gplan_jax.abtest.estimates import (
    adjusted,
    detectable,
    estimate,
    import_tea_tasting,
    sample_ratio_p,
    variance_saved,
)
from gplan_jax.abtest.experiment import AbTest, Metric
from gplan_jax.abtest.log import ExposureLog
from gplan_jax.abtest.sequential import Sequential, sequential_analysis
from gplan_jax.abtest.summary_tables import headline_of, markdown
from gplan_jax.abtest.users import COVARIATES, UserTable, divide, user_table
from gplan_jax.foundation.config import parse_config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import atomic_directory, write_json
from gplan_jax.foundation.strict_json import finite

DEFAULT_CONTROL = "control"
FORETOLD = 1 - 1e-9  # share of the variance; what is above it comes from rounding


def settings_for(log: ExposureLog, control: str | None, changes: Mapping[str, Any]) -> AbTest:
    """The plan of a test without a config: the log's arms in equal shares, all else as default."""
    rows = log.impressions_R > 0
    if isinstance(start := changes.get("start"), date):
        rows &= log.day_R >= start.toordinal()
    arms = [log.arms[code] for code in np.unique(log.arm_R[rows]) if code >= 0]
    found, first = ", ".join(arms), control or DEFAULT_CONTROL
    if len(arms) < 2:
        raise GplanError(
            f"{log.source} has one arm only ({found}); a comparison needs the rows of two."
        )
    if first not in arms:
        raise GplanError(
            f"{log.source} has no arm {first!r}; its arms are {found}. Name the one that others "
            "are compared with: --control ARM."
        )
    arms.sort(key=lambda arm: (arm != first, arm))
    values = {"name": "experiment", "arms": dict.fromkeys(arms, 1 / len(arms)), "control": first}
    return parse_config(AbTest, values | dict(changes), source=str(log.source))


def analyse(
    log: ExposureLog,
    test: AbTest,
    *,
    sequential: bool = False,
    on_crossover: Literal["raise", "drop"] = "raise",
    sum_duplicates: bool = False,
) -> dict[str, Any]:
    """Compares every treatment with the control.

    The verdict is on the test's metric, adjusted by the pre-period where the log has one; several
    treatments are a family whose p-values are corrected. A failed sample-ratio check takes the
    place of a verdict, the figures stay. docs/abtest.md names the keys of the summary.
    """
    import_tea_tasting()
    period = divide(log, test, on_crossover=on_crossover, sum_duplicates=sum_duplicates)
    treatments = [arm for arm in test.arms if arm != test.control]
    table = user_table(period)
    codes = {arm: period.test.arms.index(arm) for arm in test.arms}
    users = {arm: int(np.count_nonzero(table.arm_U == code)) for arm, code in codes.items()}
    p = sample_ratio_p(users, test.arms)
    ratio = {"users": users, "expected": test.arms, "p": p, "passed": not p < test.srm_alpha}
    comparisons = [
        {"treatment": treatment} | _compare(table, codes[test.control], codes[treatment], test)
        for treatment in treatments
    ]
    p_values = {row["treatment"]: row["p"] for row in comparisons if row["p"] is not None}
    found = adjusted(p_values, alpha=test.alpha, correction=test.correction)
    looks = {
        treatment: sequential_analysis(period, test, treatment, alpha=test.alpha / len(treatments))
        for treatment in (treatments if sequential else [])
    }
    for row in comparisons:
        row["p_adjusted"] = found.get(row["treatment"])
        row["verdict"], row["because"] = _verdict(row, ratio, test, looks.get(row["treatment"]))
    return {
        "log": {
            "file": log.source.name,
            "rows": len(log),
            "users": len(np.unique(period.test.user_R)),
            "first_day": str(date.fromordinal(period.first)),
            "last_day": str(date.fromordinal(period.last)),
            "days": period.last - period.first + 1,
            "days_before": len(np.unique(period.before.day_R)),
        },
        "experiment": test.model_dump(mode="json"),
        "notes": [*period.notes],
        "warnings": [*period.missing],
        "sample_ratio": ratio,
        "comparisons": [finite(row) for row in comparisons],
        "sequential": {name: finite(dataclasses.asdict(found)) for name, found in looks.items()},
    }


def write_summary(summary: Mapping[str, Any], out: Path) -> None:
    """Writes summary.json and summary.md into the new directory ``out``, both or neither."""
    with atomic_directory(out) as folder:
        write_json(folder / "summary.json", summary)
        (folder / "summary.md").write_text(markdown(summary), encoding="utf-8")


def _compare(table: UserTable, control: int, treatment: int, test: AbTest) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    headline, least = None, None
    for metric in Metric:
        arms = first, treated = [table.aggregates(arm, metric) for arm in (control, treatment)]
        plain = estimate(first, treated, metric, alpha=test.alpha)
        cuped, saved = None, None
        before, of = COVARIATES[metric]
        has_covariate = all(
            arm.mean(of) > 0 and arm.mean(before) > 0 and arm.var(before) > 0 for arm in arms
        )
        if test.cuped and plain.method == "welch" and has_covariate:
            cuped = estimate(first, treated, metric, alpha=test.alpha, cuped=True)
            saved = variance_saved(plain, cuped)
            # Where the past foretells all, no variance is left to test with: the plain figures.
            if saved is None or not saved < FORETOLD:
                cuped = saved = None
        if metric is test.metric:
            headline = cuped or plain
            least = detectable(
                first, treated, metric, alpha=test.alpha, power=test.power, cuped=cuped is not None
            )
        metrics[str(metric)] = {
            "plain": dataclasses.asdict(plain),
            "cuped": dataclasses.asdict(cuped) if cuped else None,
            "variance_saved": saved,
        }
    return {"metrics": metrics, "p": headline.p if headline else None, "detectable_lift": least}


def _verdict(
    row: Mapping[str, Any], ratio: Mapping[str, Any], test: AbTest, looks: Sequential | None
) -> tuple[str, str]:
    if not ratio["passed"]:
        return "refused", f"users don't fall into arms as planned (p = {ratio['p']:.2g})"
    if looks is not None:
        last = looks.looks[-1]
        if looks.decision == "stop":
            first = next(look for look in looks.looks if look.crossed)
            better = "better" if first.difference > 0 else "worse"
            return better, f"the bound was crossed on {first.day}"
        if looks.decision == "go_on":
            left = looks.planned_days - len(looks.looks)
            return "go_on", f"no bound crossed by {last.day}; {left} planned days are left"
        return "no_difference_shown", f"no bound crossed in {looks.planned_days} planned days"
    p, found = row["p_adjusted"], headline_of(row, test.metric)
    if p is None:
        return "undecided", found["why_none"]
    if p >= test.alpha:
        return "no_difference_shown", f"p = {p:.3g}"
    return ("better" if found["difference"] > 0 else "worse"), f"p = {p:.3g}"
