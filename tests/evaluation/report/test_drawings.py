"""Parts of drawings: scales, ticks, escaped words, and what learning curves are drawn from."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gplan_jax.evaluation.comparison.results import CurvePoint
from gplan_jax.evaluation.report import drawings
from gplan_jax.evaluation.report.drawings import (
    ForestLine,
    ForestMark,
    fits_of,
    forest,
    learning_curves,
    mean_curve,
)

VALUES = st.floats(-1000, 1000, allow_nan=False)


@given(st.lists(VALUES, min_size=1, max_size=6))
@example([0, 2.2e-74])
@example([-5e-324, 0.0])
@example([1000.0, math.nextafter(1000.0, 0)])
@example([0.5, 0.5 + 1.1e-4])
def test_scales_hold_their_values_and_have_round_ticks(values: list[float]) -> None:
    scale = drawings.padded(values, 10, 210)
    assert all(10 <= scale(value) <= 210 for value in values)
    ticks = scale.ticks()
    assert ticks == sorted(set(ticks)) and 2 <= len(ticks) <= 5
    assert all(scale.low - 1e-6 <= tick <= scale.high + 1e-6 for tick in ticks)


def test_ticks_by_hand() -> None:
    assert drawings.Scale(0.41, 0.63, 0, 1).ticks() == [0.45, 0.5, 0.55, 0.6]
    assert drawings.Scale(0, 100, 0, 1).ticks(4) == [0, 50, 100]
    assert drawings.Scale(0, 1e-74, 0, 1).ticks(4) == [0, 5e-75, 1e-74]
    assert [drawings.short(v) for v in (12.0, 0.5, 3.256, -0.001)] == ["12", "0.5", "3.26", "0"]


def test_words_are_escaped_and_clipped() -> None:
    element = drawings.text(1, 2, "a < b & c", 'x" y')
    parsed = ElementTree.fromstring(element)
    assert parsed.text == "a < b & c" and parsed.get("class") == 'x" y'
    assert drawings.clipped("订单提醒", 8) == "订单提醒"
    assert drawings.clipped("订单提醒", 7) == "订单…"


def test_a_forest_has_one_interval_an_arm_where_it_belongs() -> None:
    marks = [ForestMark(0.5, 0.4, 0.6, "trained", (0.48, 0.52)), ForestMark(0.3, 0.2, 0.4, "floor")]
    lines = [ForestLine(f"arm {i}", [mark]) for i, mark in enumerate(marks)]
    tree = ElementTree.fromstring(forest("f", "t", "d", lines, "acc1", reference=0.3))
    groups = [g for g in tree.iter("g") if g.get("class") in ("trained", "floor")]
    circle, square = tree.find(".//circle"), groups[1].find("rect")
    assert len(groups) == 2 and circle is not None and square is not None
    scale = drawings.padded([0.4, 0.6, 0.2, 0.4, 0.3], 8, 352)
    assert float(circle.get("cx", "")) == pytest.approx(scale(0.5), abs=0.01)
    whole = groups[0].findall("line")[0]
    assert float(whole.get("x1", "")) == pytest.approx(scale(0.4), abs=0.01)
    [dashed] = [e for e in tree.iter("line") if e.get("class") == "reference"]
    assert float(dashed.get("x1", "")) == pytest.approx(scale(0.3), abs=0.01)
    values = [t.text for t in tree.iter("text") if "value" in t.get("class", "").split()]
    assert values == ["50.0", "30.0"]


def points(fold: int, losses: list[float]) -> list[CurvePoint]:
    return [
        CurvePoint(fold=fold, seed=0, epoch=epoch, loss=loss, validation_loss=loss + 1)
        for epoch, loss in enumerate(losses, start=1)
    ]


def test_the_mean_ends_where_most_fits_have_ended() -> None:
    curve = [*points(0, [4, 2, 1, 0.5]), *points(1, [2, 1, 0.4]), *points(2, [3, 3])]
    fits = fits_of(curve, "loss")
    assert [len(fit) for fit in fits] == [4, 3, 2]
    assert mean_curve(fits) == [(1, 3.0), (2, 2.0), (3, pytest.approx(0.7))]
    assert fits_of(curve, "validation_loss")[2] == [(1, 4.0), (2, 4.0)]


def test_learning_curves_draw_every_fit_and_leave_out_what_is_no_number() -> None:
    curve = [*points(0, [4, 2, math.inf]), *points(1, [3, 2.5, 2.4])]
    drawing = learning_curves("c", "an arm", curve)
    assert drawing is not None
    lines = [e.get("class", "") for e in ElementTree.fromstring(drawing).iter("polyline")]
    assert lines.count("train thin") == lines.count("validation thin") == 2
    assert lines.count("train thick") == 1 and "inf" not in drawing
    dots = [e for e in ElementTree.fromstring(drawing).iter("circle")]
    assert len(dots) == 2
    assert learning_curves("c", "an arm", []) is None
