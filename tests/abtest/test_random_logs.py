"""Any log ends in a summary that is JSON, or in an error that says what the log lacks."""

from __future__ import annotations

import json
import re
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gplan_jax.abtest import sequential
from gplan_jax.abtest.analysis import analyse, markdown, settings_for
from gplan_jax.abtest.experiment import COLUMNS, read_log
from gplan_jax.foundation import GplanError

EXAMPLES = max(200, settings().max_examples)  # cheap ones; an option of the command line adds more
START = date(2026, 11, 2)
LARGE = 2**53 - 1

# A user's rows: an arm, and for each day counts; None is a day without the user. The first two days
# lie before the test. Few values and whole columns alike make ties and arms without any spread.
days = st.none() | st.tuples(st.sampled_from([0, 1, 1, 2, LARGE]), st.sampled_from([0, 0, 1, 1, 2]))
users = st.tuples(st.sampled_from("abc"), st.lists(days, min_size=4, max_size=4))
same = users.flatmap(lambda user: st.lists(st.just(user), min_size=1, max_size=4))
logs = st.lists(users.map(lambda user: [user]) | same, min_size=2, max_size=8)
changes = st.fixed_dictionaries(
    {"metric": st.sampled_from(["uv_ctr", "uv_ctr_day", "ctr"])},
    optional={
        "start": st.just(START),
        "cuped": st.booleans(),
        "correction": st.just("fdr"),
        "spending": st.just("pocock"),
        "srm_alpha": st.just(1e-9),
    },
)


def summarized(path: Path, changed: dict[str, Any], looks: bool) -> dict[str, Any] | None:
    try:
        log = read_log(path)
        test = settings_for(log, "a", changed | ({"planned_days": 4} if looks else {}))
        return analyse(log, test, sequential=looks)
    except GplanError:
        return None


@settings(max_examples=EXAMPLES)
@given(groups=logs, changed=changes, looks=st.booleans())
def test_any_log_ends_in_json_or_an_error(
    groups: list[list[Any]],
    changed: dict[str, Any],
    looks: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.csv"
    lines = [
        f"u{number},{START + timedelta(day - 2)},{arm},{count[0]},{min(count)}"
        for number, (arm, course) in enumerate(user for group in groups for user in group)
        for day, count in enumerate(course)
        if count is not None
    ]
    path.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequential, "bounds", partial(sequential.bounds, paths=2000))
        summary = summarized(path, changed, looks)
    if summary is None:
        return
    text = json.dumps(summary, allow_nan=False) + markdown(summary)
    assert not re.search(r"\b(nan|inf)\b", text, re.IGNORECASE)
    tested = [
        estimate
        for row in summary["comparisons"]
        for found in row["metrics"].values()
        for estimate in (found["plain"], found["cuped"])
        if estimate and estimate["p"] is not None
    ]
    for estimate in tested:
        assert 0 <= estimate["p"] <= 1
        assert estimate["low"] <= estimate["difference"] <= estimate["high"]


def test_users_whose_past_foretells_all_are_compared_without_it(tmp_path: Path) -> None:
    """Nothing is left to estimate a variance from, so no division by it either."""
    path = tmp_path / "log.csv"
    lines = [
        f"{arm}{user},2026-11-0{day},{arm if day == 2 else ''},1,{int(user == 0)}"
        for arm in ("control", "gplan")
        for user in range(5)
        for day in (1, 2)
    ]
    path.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n", encoding="utf-8")
    log = read_log(path)
    summary = analyse(log, settings_for(log, None, {"start": START}))
    (row,) = summary["comparisons"]
    assert (row["verdict"], row["p"]) == ("no_difference_shown", 1.0)
    assert row["metrics"]["uv_ctr"]["cuped"] is None and row["detectable_lift"] > 1
