"""Tables of context sensitivity: the figures in their cells, at the width of a terminal."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gplan_jax.data.tasks.gsisr_task import MODEL_MEASURES
from gplan_jax.evaluation.sensitivity.model_comparison import PAIR_HEADINGS, sensitivity_view
from gplan_jax.foundation.tables import plain_text


def figures(values: dict[str, float]) -> dict[str, Any]:
    return {m: {"mean": v, "interval": [v - 0.01, v + 0.02], "count": 9} for m, v in values.items()}


def metrics(changed: float, *, stayed: bool = True) -> dict[str, Any]:
    pair = {"changed": changed, "right_context": 0.81, "exact_own": 0.4, "exact_other": 0.25}
    if stayed:
        pair["stayed"] = 0.9
    counts = {"differ": 140, "equal": 56}
    parts = {
        "weekday_weekend": {"pairs": counts, "figures": figures(pair)},
        "at_order_place": {"pairs": {"differ": 3, "equal": 0}, "figures": figures({"changed": 1})},
    }
    return {
        "pairs": counts,
        "contexts": 320,
        "anchors": 60,
        "figures": figures(pair),
        "labels": figures(dict.fromkeys(MODEL_MEASURES, 0.5)),
        "by_perturbation": parts,
    }


RUNS = {"PICD": metrics(0.625), "PICD + vanilla DPO": metrics(0.5), "PICD + SC-DPO": metrics(0.75)}


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_figures_intervals_and_landmarks_stand_in_their_rows() -> None:
    found = rows(plain_text(sensitivity_view(RUNS)))
    assert ["PICD", "62.5", "90.0", "81.0", "40.0", "25.0"] in found
    start = found.index(["PICD + SC-DPO", "75.0", "90.0", "81.0", "40.0", "25.0"])
    assert found[start + 1] == ["95% from", "74.0", "89.0", "80.0", "39.0", "24.0"]
    assert found[start + 2] == ["95% to", "77.0", "92.0", "83.0", "42.0", "27.0"]
    assert ["one plan for both", "0.0", "100.0", "50.0", "–", "–"] in found
    assert ["the teacher", "100.0", "100.0", "100.0", "100.0", "0.0"] in found
    assert ["weekday_weekend", "140 + 56", *[""] * len(PAIR_HEADINGS)] in found
    assert ["PICD + vanilla DPO", "", "100.0", *"––––"] in found
    assert ["PICD", "50.0", "0.500", "0.500", "50.0", "50.0", "50.0"] in found


def test_differences_are_marked_where_their_interval_excludes_zero() -> None:
    def figure(mean: float, low: float, high: float) -> dict[str, Any]:
        return {"mean": mean, "interval": [low, high], "count": 9}

    gained = {
        "from": "[PICD]",
        "figures": {
            "changed": figure(0.25, 0.125, 0.5),
            "exact_own": figure(-0.25, -0.5, -0.125),
            "right_context": figure(0.25, -0.125, 0.5),
        },
        "labels": {"nes": figure(0.25, 0.0, 0.5)},
    }
    runs = {"[PICD]": metrics(0.5), "SC-DPO": {**metrics(0.75), "difference": gained}}
    text = plain_text(sensitivity_view(runs))
    assert "Difference from [PICD]" in text
    found = rows(text)
    assert ["Changed %", "+25.0 [+12.5, +50.0]*"] in found
    assert ["Own plan %", "-25.0 [-50.0, -12.5]*"] in found
    assert ["Right context %", "+25.0 [-12.5, +50.0]"] in found
    assert ["Stayed %", "–"] in found
    assert ["NES", "+0.250 [+0.000, +0.500]"] in found
    assert "Difference" not in plain_text(sensitivity_view(RUNS))


def test_what_was_not_measured_is_a_dash() -> None:
    found = rows(plain_text(sensitivity_view({"PICD": metrics(0.5, stayed=False)})))
    assert ["PICD", "50.0", "–", "81.0", "40.0", "25.0"] in found


@pytest.mark.parametrize("width", [80, 100])
def test_no_figure_is_cut_at_the_width_of_a_terminal(width: int) -> None:
    text = plain_text(sensitivity_view(RUNS), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert len(re.findall(r"\b62\.5\b", text)) == 2  # the pairs' table and one perturbation


def test_a_name_is_text_never_markup() -> None:
    assert "[red]x" in plain_text(sensitivity_view({"[red]x": metrics(0.5)}))
