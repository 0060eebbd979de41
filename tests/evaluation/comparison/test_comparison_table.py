"""The table of a comparison."""

from __future__ import annotations

from typing import Any

from gplan_jax.evaluation.comparison.comparison_table import (
    HEADINGS,
    comparison_table,
    markdown_text,
    table_rows,
    terminal_text,
)
from gplan_jax.evaluation.comparison.results import ComparisonAbout, ComparisonSummary

ABOUT = ComparisonAbout.model_validate({
    "data": {"file": "rows.csv", "rows": 1000, "ids": 900, "sha256": ""},
    "library": "amap",
    "mode": "full",
    "folds": 5,
    "seeds": 2,
    "trials": 4,
    "arms": ["net", "weak", "given", "floor"],
    "titles": {"net": "Net", "weak": "Weak", "given": "Given", "floor": "Floor"},
    "floors": ["floor"],
    "added": ["given"],
    "costs": {
        "net": {"parameters": 1_250_000, "seconds": 3.25},
        "weak": {"parameters": 900, "seconds": 1.0},
        "floor": {"parameters": 0, "seconds": 0.01},
    },
    "rows_without_plan": 1,
    "rows_not_learnt": 0,
    "unfinished": ["lost"],
})  # fmt: skip


def means(acc1: float, sd: float | None) -> dict[str, Any]:
    one = {"mean": acc1, "low": acc1 - 0.03, "high": acc1 + 0.03, "seed_sd": sd}
    return {measure: one for measure in ("acc1", "ndcg3", "nes")}


def comparison(first: str, second: str, difference: float, holds: bool) -> dict[str, Any]:
    return {
        "first": first, "second": second, "measure": "acc1", "difference": difference,
        "low": 0, "high": 0, "p": 0, "p_holm": 0, "holds": holds, "method": "permutation",
    }  # fmt: skip


SUMMARY = ComparisonSummary.model_validate({
    "arms": {
        "net": means(0.6, 0.012),
        "weak": means(0.3, 0.02),
        "given": means(0.55, None),
        "floor": means(0.5, None),
    },
    "beside": {
        name: {
            "acc1_tool": 0.65, "ndcg3_tool": 0.712, "exact": 0.1, "filter_pass": 1.0,
            "free_acc1": 0.58, "free_filter_pass": 0.9,
        }
        for name in ABOUT.arms
    },
    "comparisons": [
        comparison("net", "floor", 0.1, True),
        comparison("floor", "weak", 0.2, True),
        comparison("given", "floor", 0.05, False),
        comparison("net", "weak", 0.3, True),
    ],
    "reference": "floor",
    "method": "95% intervals over the rows",
})  # fmt: skip


def test_marks_tell_what_holds_against_the_best_floor() -> None:
    rows = {
        name: [cell.strip() for cell in cells] for name, cells in table_rows(ABOUT, SUMMARY).items()
    }
    assert [rows[name][0] for name in ABOUT.arms] == ["60.0▲", "30.0▼", "55.0", "50.0"]
    assert rows["net"][1:3] == ["57.0–63.0", "1.2"] and rows["net"][3] == "0.600"
    assert rows["net"][5:] == ["10.0", "100.0", "58.0", "90.0", "1.2M", "3.2"]
    assert rows["weak"][-2] == "1k"
    # Neither floors nor plans from elsewhere tell free from constrained decoding.
    assert rows["given"][7:] == ["–"] * 4
    assert rows["floor"][7:] == ["–", "–", "–", "0.0"] and rows["floor"][2] == "–"


def test_it_fits_its_terminal() -> None:
    text = terminal_text(ABOUT, SUMMARY)
    assert max(map(len, text.splitlines())) <= 120 and "…" not in text
    lines = text.splitlines()
    floor = next(i for i, line in enumerate(lines) if line.strip().startswith("Floor"))
    assert set(lines[floor - 1].strip()) == {"─"}, "floors stand below a rule"
    assert len(comparison_table(ABOUT, SUMMARY).columns) == 1 + len(HEADINGS)


def test_the_caption_tells_how_it_came_about() -> None:
    text = " ".join(markdown_text(ABOUT, SUMMARY).split())
    for part in (
        "rows.csv: 1,000 rows of 900 ids, 5 folds by id; arms see the whole row.",
        "4 trials in each fold, the best on held-out training ids fitted to all training rows "
        "with 2 seeds.",
        "better or worse than the best floor, Floor, after Holm's correction",
        "Predicted elsewhere, one seed, as decoded there: Given.",
        "1 row without a plan: left out.",
        "Not in the table, as fits are missing: lost.",
        "95% intervals over the rows.",
        "| **Net** | 60.0▲ | 57.0–63.0 | 1.2 |",
        "| Floor (floor) | 50.0 |",
        "tools alone | 65.0 | – | – | 0.712 | – |",
    ):
        assert part in text, part
