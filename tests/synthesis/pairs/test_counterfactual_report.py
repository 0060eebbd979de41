from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from gplan_jax.synthesis.pairs.counterfactual_report import Report, report_path, report_table

REPORT = Report(
    anchors=9,
    without_pair=4,
    skipped=3,
    verdicts={
        "anchor": {"failed": 1, "unreadable": 1, "unchangeable": 1},
        "other_city": {"pair": 4, "equal": 2},
        "at_home": {"pair": 1, "failed": 3, "not_applicable": 5},
    },
)


def test_the_counts_for_json_add_up() -> None:
    counts = REPORT.to_dict()
    assert (counts["anchors"], counts["without_pair"], counts["skipped"]) == (9, 4, 3)
    assert counts["candidates"] == {
        "pair": 5,
        "equal": 2,
        "failed": 4,
        "not_applicable": 5,
        "unreadable": 1,
        "unchangeable": 1,
    }
    assert counts["by_perturbation"] == {
        "other_city": {"pair": 4, "equal": 2, "failed": 0, "not_applicable": 0},
        "at_home": {"pair": 1, "equal": 0, "failed": 3, "not_applicable": 5},
    }


def test_the_reasons_for_skipping_are_counted() -> None:
    assert REPORT.reasons() == (
        " (1 rows with an unreadable time or flag, 1 rows of which nothing can be changed, "
        "4 answers that failed)"
    )
    assert Report(1, 0, 0, {"other_city": {"pair": 1}}).reasons() == ""


def test_the_table_has_a_line_a_perturbation_and_their_sum() -> None:
    out = io.StringIO()
    Console(file=out, width=100).print(report_table(REPORT))
    lines = [line.replace("│", " ").split() for line in out.getvalue().splitlines()]
    assert ["other_city", "6", "4", "2", "0", "0"] in lines
    assert ["at_home", "4", "1", "0", "3", "5"] in lines
    assert ["all", "10", "5", "2", "3", "5"] in lines


def test_the_report_stands_beside_the_pairs() -> None:
    assert report_path("runs/pairs.jsonl") == Path("runs/pairs.report.json")
