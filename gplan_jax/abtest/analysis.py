"""From a log to a summary, its tables and its Markdown: what `gplan abtest analyse` computes and
writes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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
from gplan_jax.abtest.experiment import AbTest, ExposureLog, Metric
from gplan_jax.abtest.sequential import Sequential, sequential_analysis
from gplan_jax.abtest.users import COVARIATES, UserTable, divide, user_table
from gplan_jax.foundation.config import parse_config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import atomic_directory, finite, write_json
from gplan_jax.foundation.tables import NOTHING, TextTable

DEFAULT_CONTROL = "control"
FORETOLD = 1 - 1e-9  # share of the variance; what is above it comes from rounding
NAMES = {"uv_ctr": "UV-CTR", "uv_ctr_day": "UV-CTR a day", "ctr": "CTR"}


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


def text_table(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, keys: int = 1
) -> TextTable:
    """A table whose columns are all set as words: figures stand beside their intervals."""
    return TextTable(headings, rows, words=len(headings), title=title, keys=keys)


def summary_tables(summary: Mapping[str, Any]) -> list[TextTable]:
    """The tables of an analysis: verdicts, all metrics, sample ratios, and the looks if any."""
    tables = [verdict_table(summary)]

    # All metrics, plain and adjusted by the pre-period.
    rows: list[Sequence[str]] = []
    for row in summary["comparisons"]:
        for metric, both in row["metrics"].items():
            for kind in ("plain", "cuped"):
                if (found := both[kind]) is None:
                    continue
                name = NAMES[metric] + (", CUPED" if kind == "cuped" else "")
                saved = percent(both["variance_saved"]) if kind == "cuped" else NOTHING
                points, lift = _interval(found, "difference"), _interval(found, "lift")
                rows.append((row["treatment"], name, points, lift, number(found["p"]), saved))
    headings = ("arm", "metric", "difference, points", "lift", "p", "variance saved")
    tables.append(text_table("All metrics", headings, rows, keys=2))

    # Users of each arm beside their share of the plan.
    ratio = summary["sample_ratio"]
    users = ", ".join(f"{arm} {count:,}" for arm, count in ratio["users"].items())
    rows = [(users, number(ratio["p"]), "passed" if ratio["passed"] else "FAILED")]
    tables.append(text_table("Sample ratio", ("users", "p", "check"), rows))

    # The looks of a sequential test.
    for treatment, found in summary["sequential"].items():
        rows = [
            (
                look["day"],
                percent(look["control"]),
                percent(look["treatment"]),
                _interval(look, "lift"),
                number(look["z"]),
                number(look["bound"]),
                "crossed" if look["crossed"] else "",
            )
            for look in found["looks"]
        ]
        planned, spending = found["planned_days"], found["spending"].replace("_", "-")
        title = f"{treatment}: daily looks, {planned} planned, {spending}"
        looks = ("day", "control", "treatment", "lift, repeated interval", "z", "bound", "")
        tables.append(text_table(title, looks, rows))
    return tables


def verdict_table(summary: Mapping[str, Any]) -> TextTable:
    """One row a treatment: the metric of the verdict, its lift, and what follows."""
    metric = summary["experiment"]["metric"]
    level = 100 * (1 - summary["experiment"]["alpha"])
    rows = []
    for row in summary["comparisons"]:
        found = headline_of(row, metric)
        rates = [percent(found[arm]) for arm in ("control", "treatment")]
        lift = _interval(found, "lift")
        verdict = row["verdict"].replace("_", " ")
        least = percent(row["detectable_lift"], sign=True)
        p = number(row["p_adjusted"])
        rows.append((row["treatment"], *rates, lift, p, least, verdict))
    headings = ("arm", "control", "treatment", f"lift [{level:g}%]", "p corrected")
    return text_table(f"{NAMES[metric]}: verdicts", (*headings, "detectable", "verdict"), rows)


def headline_of(row: Mapping[str, Any], metric: str) -> Mapping[str, Any]:
    """The estimate that a comparison's verdict is on."""
    both = row["metrics"][metric]
    return both["cuped"] or both["plain"]


def simulation_table(
    shares: Mapping[str, Mapping[str, Any]], title: str, *, goal: float
) -> TextTable:
    """Shares of experiments with their binomial intervals, beside what was promised."""
    rows = []
    for name, share in shares.items():
        interval = f"[{percent(share['low'])}, {percent(share['high'])}]"
        within = "yes" if share["low"] <= goal <= share["high"] else "no"
        count = f"{share['count']:,} of {share['of']:,}"
        rows.append((name, count, percent(share["share"]), interval, within))
    headings = ("test", "found", "share", "95% interval", f"holds {percent(goal)}")
    return text_table(title, headings, rows)


def markdown(summary: Mapping[str, Any]) -> str:
    """The whole summary as Markdown."""
    log = summary["log"]
    days = f"{log['days']} days from {log['first_day']} to {log['last_day']}"
    lines = [
        f"# {summary['experiment']['name']}",
        "",
        f"{log['users']:,} users, {days}, {log['days_before']} days before.",
        "",
        *(
            f"- {row['treatment']}: **{row['verdict'].replace('_', ' ')}** ({row['because']})."
            for row in summary["comparisons"]
        ),
        *(f"- Warning: {text}." for text in summary["warnings"]),
        *(f"- Note: {text}." for text in summary["notes"]),
    ]
    for table in summary_tables(summary):
        lines += ["", f"## {table.title}", "", table.markdown().rstrip()]
    return "\n".join(lines) + "\n"


def percent(value: float | None, *, sign: bool = False) -> str:
    """0.0087 -> 0.87%."""
    if value is None:
        return NOTHING
    return f"{100 * value:+.2f}%" if sign else f"{100 * value:.2f}%"


def number(value: float | None) -> str:
    """Three digits."""
    return NOTHING if value is None else f"{value:.3g}"


def _interval(found: Mapping[str, Any], name: str) -> str:
    names = ("low", "high") if name == "difference" else (f"{name}_low", f"{name}_high")
    value, low, high = found[name], *(found[key] for key in names)
    if value is None:
        return NOTHING
    texts = [percent(v, sign=True) for v in (value, low, high)]
    if name != "lift":  # in points
        texts = [text.rstrip("%") for text in texts]
    return texts[0] if low is None else f"{texts[0]} [{texts[1]}, {texts[2]}]"
