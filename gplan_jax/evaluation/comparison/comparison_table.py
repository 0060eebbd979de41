"""The table of a comparison: arms, below the rule the floors, and how to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from gplan_jax.evaluation.comparison.results import ArmCost, ComparisonAbout, ComparisonSummary
from gplan_jax.foundation.tables import NOTHING, Cell, TextTable, plain_text

ABOVE, BELOW, NO_MARK = "▲", "▼", "\N{NO-BREAK SPACE}"  # Figures stay below one another.
WIDTH = 120
HEADINGS = (
    "Acc@1\n%", "95% over\nrows", "± sd of\nseeds", "NDCG@3", "NES", "Exact\n%", "Filter\n%",
    "free:\nAcc@1 %", "free:\nfilter %", "Para-\nmeters", "Sec.\na fit",
)  # fmt: skip


def table_rows(about: ComparisonAbout, summary: ComparisonSummary) -> dict[str, list[str]]:
    """Arm -> its cells under HEADINGS; figures that differ from the reference carry a mark."""
    marks: dict[tuple[str, str], str] = {}
    for found in summary.comparisons:
        better = found.difference > 0
        if found.holds and found.second == summary.reference:
            marks[found.first, found.measure] = ABOVE if better else BELOW
        elif found.holds and found.first == summary.reference:
            marks[found.second, found.measure] = BELOW if better else ABOVE
    rows = {}
    for name in about.arms:
        means, beside = summary.arms[name], summary.beside[name]
        acc1, cost = means["acc1"], about.costs.get(name, ArmCost())
        free = [NOTHING] * 2
        if name not in about.floors and name not in about.added:
            free = [_percent(beside["free_acc1"]), _percent(beside["free_filter_pass"])]
        size = cost.parameters or 0
        rows[name] = [
            _percent(acc1.mean) + marks.get((name, "acc1"), NO_MARK),
            f"{_percent(acc1.low)}–{_percent(acc1.high)}",
            NOTHING if acc1.seed_sd is None else _percent(acc1.seed_sd),
            f"{means['ndcg3'].mean:.3f}" + marks.get((name, "ndcg3"), NO_MARK),
            f"{means['nes'].mean:.3f}" + marks.get((name, "nes"), NO_MARK),
            _percent(beside["exact"]),
            _percent(beside["filter_pass"]),
            *free,
            NOTHING if not size else f"{size / 1e6:.1f}M" if size >= 1e6 else f"{size / 1e3:.0f}k",
            NOTHING if cost.seconds is None else f"{cost.seconds:.1f}",
        ]
    return rows


def comparison_table(about: ComparisonAbout, summary: ComparisonSummary) -> Table:
    """The table for a terminal."""
    titles: dict[str, Cell] = {
        name: Text(about.titles[name], style="" if name in about.floors else "bold")
        for name in about.arms
    }
    return _table(about, summary, titles).rich()


def terminal_text(about: ComparisonAbout, summary: ComparisonSummary) -> str:
    """The table as table.txt holds it."""
    return plain_text(comparison_table(about, summary), width=WIDTH)


def markdown_text(about: ComparisonAbout, summary: ComparisonSummary) -> str:
    """The table as table.md holds it; floors come last and are named as such."""
    titles: dict[str, Cell] = {
        name: f"{about.titles[name]} (floor)"
        if name in about.floors
        else f"**{about.titles[name]}**"
        for name in about.arms
    }
    return _table(about, summary, titles).markdown()


def _table(
    about: ComparisonAbout, summary: ComparisonSummary, titles: Mapping[str, Cell]
) -> TextTable:
    cells = table_rows(about, summary)
    rows: list[Sequence[Cell] | None] = []
    for floors in (False, True):
        rows += [None] if floors else []
        for name in (name for name in about.arms if (name in about.floors) == floors):
            beside, tools = summary.beside[name], [NOTHING] * len(HEADINGS)
            tools[0] = _percent(beside["acc1_tool"]) + NO_MARK
            tools[3] = f"{beside['ndcg3_tool']:.3f}" + NO_MARK
            rows += [[titles[name], *cells[name]], ["  tools alone", *tools]]
    return TextTable(["", *HEADINGS], rows, caption=caption(about, summary), plain=True)


def caption(about: ComparisonAbout, summary: ComparisonSummary) -> str:
    """What was compared and how, in the words that stand below the table."""
    data, reference = about.data, summary.reference
    names = about.titles
    if about.folds > 1:
        split = f"{about.folds} folds by id"
    else:
        split = f"learnt from {about.train_data.file if about.train_data else data.file}"
    seen = "the whole row" if about.mode == "full" else "profile and histories, no context"
    parts = [
        f"{data.file}: {data.rows:,} rows of {data.ids:,} ids, {split}; arms see {seen}. Tools "
        "alone: no parameter counts, as the paper scores its baselines."
    ]
    if len(about.arms) > len(about.floors) + len(about.added):
        parts.append(
            f"Each network: {_many(about.trials, 'trial')} in each fold, the best on held-out "
            f"training ids fitted to all training rows with {_many(about.seeds, 'seed')}."
        )
    parts.append(
        "Constrained decoding, free decoding where it says so; filter: plans that pass the rule "
        "filter."
    )
    if reference in about.floors:
        parts.append(
            f"{ABOVE} {BELOW}: better or worse than the best floor, {names[reference]}, after "
            "Holm's correction; without a mark the difference may be chance."
        )
    if about.added:
        added = ", ".join(names[name] for name in about.added)
        parts.append(f"Predicted elsewhere, one seed, as decoded there: {added}.")
    for count, words in (
        (about.rows_without_plan, "without a plan: left out"),
        (
            about.rows_not_learnt,
            "with a plan that the library does not admit: scored, not learnt from",
        ),
    ):
        if count:
            parts.append(f"{_many(count, 'row')} {words}.")
    if about.unfinished:
        parts.append(f"Not in the table, as fits are missing: {', '.join(about.unfinished)}.")
    return " ".join([*parts, summary.method[:1].upper() + summary.method[1:] + "."])


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}" + ("" if count == 1 else "s")
