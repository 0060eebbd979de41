"""A summary as tables and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gplan_jax.foundation.tables import NOTHING, TextTable

NAMES = {"uv_ctr": "UV-CTR", "uv_ctr_day": "UV-CTR a day", "ctr": "CTR"}


def text_table(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, keys: int = 1
) -> TextTable:
    """A table whose columns are all set as words: figures stand beside their intervals."""
    return TextTable(headings, rows, words=len(headings), title=title, keys=keys)


def summary_tables(summary: Mapping[str, Any]) -> list[TextTable]:
    """The tables of an analysis: verdicts, all metrics, sample ratios, and the looks if any."""
    looks = [look_table(name, found) for name, found in summary["sequential"].items()]
    return [verdict_table(summary), metric_table(summary), ratio_table(summary), *looks]


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


def metric_table(summary: Mapping[str, Any]) -> TextTable:
    """All metrics, plain and adjusted by the pre-period."""
    rows = []
    for row in summary["comparisons"]:
        for metric, both in row["metrics"].items():
            for kind in ("plain", "cuped"):
                found = both[kind]
                if found is None:
                    continue
                name = NAMES[metric] + (", CUPED" if kind == "cuped" else "")
                saved = percent(both["variance_saved"]) if kind == "cuped" else NOTHING
                points = _interval(found, "difference")
                lift = _interval(found, "lift")
                rows.append((row["treatment"], name, points, lift, number(found["p"]), saved))
    headings = ("arm", "metric", "difference, points", "lift", "p", "variance saved")
    return text_table("All metrics", headings, rows, keys=2)


def ratio_table(summary: Mapping[str, Any]) -> TextTable:
    """Users of each arm beside their share of the plan."""
    ratio = summary["sample_ratio"]
    users = ", ".join(f"{arm} {count:,}" for arm, count in ratio["users"].items())
    passed = "passed" if ratio["passed"] else "FAILED"
    return text_table(
        "Sample ratio", ("users", "p", "check"), [(users, number(ratio["p"]), passed)]
    )


def look_table(treatment: str, found: Mapping[str, Any]) -> TextTable:
    """The looks of a sequential test."""
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
    headings = ("day", "control", "treatment", "lift, repeated interval", "z", "bound", "")
    planned, spending = found["planned_days"], found["spending"].replace("_", "-")
    return text_table(f"{treatment}: daily looks, {planned} planned, {spending}", headings, rows)


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
    unit = percent if name == "lift" else _points
    value, low, high = found[name], *(found[key] for key in names)
    if value is None:
        return NOTHING
    text = unit(value, sign=True)
    return text if low is None else f"{text} [{unit(low, sign=True)}, {unit(high, sign=True)}]"


def _points(value: float | None, *, sign: bool = False) -> str:
    return percent(value, sign=sign).rstrip("%")
