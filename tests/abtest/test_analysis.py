"""From a log to a summary: verdicts, refusals, and that all of it is JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gplan_jax.abtest.analysis import analyse, settings_for, write_summary
from gplan_jax.abtest.experiment import read_log
from gplan_jax.abtest.simulate import START, draw_arms, simulate_users, write_log
from gplan_jax.foundation import GplanError


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with a large lift and a pre-period."""
    path = tmp_path_factory.mktemp("log") / "log.csv"
    rng = np.random.default_rng(1)
    write_log(path, simulate_users(draw_arms("log1", 3000), 6, 5, 0.4, rng))
    return path


def summary_of(path: Path, *, control: str | None = None, **options: Any) -> dict[str, Any]:
    log = read_log(path)
    changes = options.pop("changes", {})
    return analyse(log, settings_for(log, control, changes), **options)


def test_a_large_lift_is_found(simulated: Path, tmp_path: Path) -> None:
    changes = {"start": START, "planned_days": 6}
    summary = summary_of(simulated, changes=changes)
    (row,) = summary["comparisons"]
    assert row["verdict"] == "better" and row["p"] == row["p_adjusted"]
    for both in row["metrics"].values():
        assert both["cuped"]["low"] < both["cuped"]["difference"] < both["cuped"]["high"]
        assert 0 < both["variance_saved"] < 0.6
    assert 0.02 < row["detectable_lift"] < 0.3
    assert summary["log"]["days"] == 6 and summary["log"]["days_before"] == 5

    with_looks = summary_of(simulated, changes=changes, sequential=True)
    assert with_looks["comparisons"][0]["verdict"] == "better"
    assert with_looks["sequential"]["gplan"]["decision"] == "stop"

    write_summary(with_looks, tmp_path / "out")
    written = (tmp_path / "out" / "summary.json").read_text(encoding="utf-8")
    assert json.loads(written, parse_constant=pytest.fail) == with_looks
    page = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert "gplan: **better** (the bound was crossed on 2026-11-0" in page
    with pytest.raises(GplanError, match="never overwritten"):
        write_summary(summary, tmp_path / "out")


def test_without_cuped_the_verdict_is_on_the_plain_figures(simulated: Path) -> None:
    changes = {"start": START, "cuped": False, "metric": "ctr"}
    row = summary_of(simulated, changes=changes)["comparisons"][0]
    assert row["metrics"]["ctr"]["cuped"] is None
    assert row["p"] == row["metrics"]["ctr"]["plain"]["p"]


def test_a_failed_sample_ratio_takes_the_verdict_and_leaves_the_figures(
    users_log: Callable[..., Path],
) -> None:
    summary = summary_of(users_log({"control": (300, 60), "gplan": (200, 90)}))
    (row,) = summary["comparisons"]
    assert row["verdict"] == "refused" and "users don't fall into arms" in row["because"]
    assert row["metrics"]["uv_ctr"]["plain"]["lift"] == pytest.approx(1.25)
    assert not summary["sample_ratio"]["passed"]
    fair = summary_of(users_log({"control": (250, 60), "gplan": (250, 90)}))
    assert fair["comparisons"][0]["verdict"] == "better"


def test_unequal_shares_are_planned_by_the_config(users_log: Callable[..., Path]) -> None:
    changes = {"arms": {"control": 0.06, "gplan": 0.04}}
    summary = summary_of(users_log({"control": (300, 60), "gplan": (200, 90)}), changes=changes)
    assert summary["sample_ratio"]["p"] == 1.0


def test_several_treatments_are_one_family(users_log: Callable[..., Path]) -> None:
    summary = summary_of(users_log({"a": (99, 20), "b": (99, 33), "c": (99, 20)}), control="a")
    b, c = summary["comparisons"]
    assert (b["treatment"], c["treatment"]) == ("b", "c")
    assert b["p_adjusted"] == pytest.approx(2 * b["p"])
    assert c["p_adjusted"] == 1.0 and c["verdict"] == "no_difference_shown"


def test_no_clicks_at_all(users_log: Callable[..., Path]) -> None:
    """Both arms at 0: Wilson's upper bound of 0 of n is z^2 / (n + z^2)."""
    summary = summary_of(users_log({"control": (50, 0), "gplan": (50, 0)}))
    (row,) = summary["comparisons"]
    found = row["metrics"]["uv_ctr"]["plain"]
    bound = 1.959964**2 / (50 + 1.959964**2)
    assert (found["low"], found["high"]) == pytest.approx((-bound, bound))
    assert (found["lift"], found["p"], row["verdict"]) == (None, 1.0, "no_difference_shown")
    assert row["metrics"]["ctr"]["plain"]["why_none"] == "all users of both arms are alike"
    assert row["detectable_lift"] is None


def test_a_missing_day_is_a_warning(users_log: Callable[..., Path]) -> None:
    path = users_log({"control": (40, 10), "gplan": (40, 20)}, days=(2, 4))
    assert summary_of(path)["warnings"] == ["2026-11-03 has no rows"]


def test_arms_without_a_config(users_log: Callable[..., Path]) -> None:
    with pytest.raises(GplanError, match="has one arm only"):
        summary_of(users_log({"control": (3, 1)}))
    with pytest.raises(GplanError, match=r"no arm 'control'; its arms are a, b.*--control ARM"):
        summary_of(users_log({"a": (3, 1), "b": (3, 1)}))
    with pytest.raises(GplanError, match="no arm 'x'"):
        summary_of(users_log({"a": (3, 1), "b": (3, 1)}), control="x")
    with pytest.raises(GplanError, match="metric: Input should be"):
        summary_of(users_log({"control": (3, 1), "b": (3, 1)}), changes={"metric": "uvctr"})
    with pytest.raises(GplanError, match="end 2026-11-01 lies before start 2026-11-02"):
        changes = {"start": date(2026, 11, 2), "end": date(2026, 11, 1)}
        summary_of(users_log({"control": (3, 1), "b": (3, 1)}), changes=changes)
