"""What the terminal shows of a judged run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from gplan_jax.evaluation.judge.aggregate import OVERALL
from gplan_jax.foundation.tables import NOTHING, Cell, TextTable


def scores_table(result: Mapping[str, Any]) -> Table:
    """Mean scores with 95% intervals, one line a source and judge, and the counts beside them."""
    measures = (*result["axes"], OVERALL)
    rows: list[Sequence[Cell] | None] = []
    for source, figures in result["sources"].items():
        together = figures["combined"]
        how = f"all, {result['run']['combine']}"
        lines = {**figures["judges"], **({how: together} if together else {})}
        for judge, line in lines.items():
            apart = sum(line[status] for status in ("unscored", "no_plan", "filtered"))
            means = _cells(line["means"], measures)
            rows.append([source, judge, *means, str(line["scored"]), str(apart)])
            for side, label in enumerate(("  95% from", "  95% to")):
                ends = line["intervals"] and {m: b[side] for m, b in line["intervals"].items()}
                dim = ("", label, *_cells(ends, measures))
                rows.append([Text(cell, style="dim") for cell in dim])
        rows.append(None)
    headings = ["plans", "judge", *(m.capitalize() for m in measures), "scored", "not"]
    return TextTable(headings, rows, words=2, keys=2, caption=_caption(result)).rich()


def pairs_table(result: Mapping[str, Any]) -> Table:
    """Wins, ties and losses of the first file's plans, one line a judge."""
    rows: list[list[str]] = []
    for judge, line in result["judges"].items():
        counts = [str(line[outcome]) for outcome in ("win", "tie", "loss")]
        rest = [str(line["unscored"]), str(line["identical"])]
        apart = str(line["no_plan"] + line["filtered"])
        share = line["first_share"]
        position = NOTHING if share is None else f"{100 * share:.1f}"
        rows.append([judge, *counts, _rate(line), position, *rest, apart])
    if together := result["combined"]:
        rows.append([f"all, {result['run']['combine']}", *[""] * 3, _rate(together)])
    return TextTable(
        ("judge", "win", "tie", "loss", "win rate %", "shown first %", "unscored", "equal", "not"),
        rows,
        title=f"{result['first']} against {result['second']}",
        caption=_pair_caption(result),
    ).rich()


def unscored_of(result: Mapping[str, Any], *, most: int = 5) -> list[str]:
    """Why rows are unscored and how many, the most frequent reasons of each judge."""
    lines = []
    for judge, reasons in result["unscored"].items():
        lines += [f"{judge}: {n} unscored, {why}" for why, n in list(reasons.items())[:most]]
        if len(reasons) > most:
            lines.append(f"{judge}: ... and {len(reasons) - most} more reasons")
    return lines


def silent_judges(result: Mapping[str, Any]) -> list[str]:
    """The judges that scored or compared nothing at all."""
    parts = [of_source["judges"] for of_source in result.get("sources", {}).values()]
    told = Counter[str]()
    for part in parts or [result["judges"]]:
        for name, line in part.items():
            told[name] += sum(line.get(k, 0) for k in ("scored", "win", "tie", "loss", "identical"))
    return [name for name, rows in told.items() if not rows]


def warnings_of(judges: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures must be told: models that changed during the run."""
    return [
        f"{name}: the server reported several models ({', '.join(described['models_reported'])}); "
        "the scores are not those of one judge."
        for name, described in judges.items()
        if described["model_changed"]
    ]


def _cells(values: Mapping[str, float] | None, measures: Sequence[str]) -> list[str]:
    return [NOTHING if values is None else f"{values[measure]:.2f}" for measure in measures]


def _rate(line: Mapping[str, Any]) -> str:
    if line["win_rate"] is None:
        return NOTHING
    low, high = (100 * bound for bound in line["interval"])
    return f"{100 * line['win_rate']:.1f}\n{low:.1f}–{high:.1f}"


def _caption(result: Mapping[str, Any]) -> str:
    parts = [
        f"{result['rows']} rows of {result['users']} users. Scores 1 to 5, 3 is the default; "
        "intervals by a bootstrap that draws whole users. Not scored: unusable replies, no plan "
        "in the answer, filtered out.",
        *_cautions(result["judges"]),
    ]
    if alpha := result["alpha"]:
        listed = ", ".join(
            f"{axis} {NOTHING if a['ordinal'] is None else format(a['ordinal'], '.2f')}"
            for axis, a in alpha.items()
        )
        parts.append(f"Krippendorff's alpha (ordinal): {listed}.")
    return " ".join(parts)


def _pair_caption(result: Mapping[str, Any]) -> str:
    return " ".join(
        [
            f"{result['rows']} rows of {result['users']} users. A win needs both orders to agree; "
            "a tie counts half. Equal plans and those without a plan are not asked.",
            *_cautions(result["judged_by"]),
        ]
    )


def _cautions(judges: Mapping[str, Any]) -> list[str]:
    cautions = dict.fromkeys(judge["caution"] for judge in judges.values())
    return [f"Mind: {caution}." for caution in cautions if caution]
