"""The trigger spec: the shipped one loads, and whatever it doesn't know is named."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Sample
from gplan_jax.synthesis.triggers.trigger_spec import (
    SHIPPED_SPEC,
    Hours,
    TriggerSpec,
    Window,
    load_triggers,
)


def test_the_shipped_rules_cover_every_public_trigger_type(spec: TriggerSpec) -> None:
    assert {rule.trigger for rule in spec.rules.values()} == {
        "酒店", "加油", "门票", "充电桩", "其他",
    }  # fmt: skip
    used = {code for event in spec.events.values() if (code := event.action)}
    assert used <= set(spec.history.actions)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("log.columns.usr=uid", "log.columns.usr: unknown key; did you mean user?"),
        ("rules.fuel.cool_down=3", "rules.fuel.cool_down: unknown key; did you mean cool_down_ho"),
        ("rules.fuel.order.stats=[open]", "rules.fuel.order.stats: unknown key; did you mean stat"),
        ("rules.fuel.events=[order_mad]", "'order_mad' is not declared in events; did you mean or"),
        ("rules.fuel.order.types=[fule]", "'fule' is not declared in orders.types; did you mean f"),
        ("rules.fuel.hours_since={vist: {least: 1}}", "'vist' is not declared in events; did you"),
        ("events.view.action=act_77", "events.view.action: 'act_77' is not declared in history"),
        ("events.view.order=bought", "events.view.order"),
        ("history.long_term.actions=[visit]", "'visit' is no action code; write act_ and a number"),
        ("history.short_term.unfinished=[act_8]", "'act_8' is not declared in history.short_term"),
        ("log.time.zone=Asia/Shanghi", "not a time zone; write one as Asia/Shanghai or UTC"),
        ("log.time.format=unix", "write iso, epoch_s, epoch_ms or a format such as"),
        ("position.stale_after_hours=0", "position.stale_after_hours"),
        ("rules.fuel.order.hours_to_start={least: 2, most: 1}", "must not be above most (1)"),
        ("rules.fuel.order.hours_to_start={}", "give least, most or both"),
        ("holidays=[{first: 2026-05-02, last: 2026-05-01}]", "last is from first on"),
    ],
)
def test_what_is_unknown_or_wrong_is_named(override: str, expected: str) -> None:
    with pytest.raises(GplanError) as error:
        load_triggers(None, [override])
    assert expected in str(error.value)


def test_several_unknown_words_are_told_at_once() -> None:
    with pytest.raises(GplanError) as error:
        load_triggers(None, ["rules.fuel.events=[a]", "rules.ride.order.types=[b]"])
    assert "rules.fuel.events: 'a'" in str(error.value)
    assert "rules.ride.order.types: 'b'" in str(error.value)


def test_a_file_of_rules_of_ones_own(tmp_path: Path) -> None:
    text = SHIPPED_SPEC.read_text(encoding="utf-8").replace("rows_per_day: 3", "rows_per_day: 7")
    own = tmp_path / "own.yaml"
    own.write_text(text, encoding="utf-8")
    assert load_triggers(own).rows_per_day == 7
    assert load_triggers(own, ["rows_per_day=9"]).rows_per_day == 9


def test_holidays_are_dates_and_ranges_with_both_ends() -> None:
    spec = load_triggers(None, ["holidays=[2026-05-01, {first: 2026-06-01, last: 2026-06-03}]"])
    days = {date(2026, 5, 1), *(date(2026, 6, day) for day in (1, 2, 3))}
    assert spec.holiday_dates == days


def test_hours_may_pass_midnight() -> None:
    assert [hour for hour in range(24) if hour in Hours(start=22, end=6)] == [
        0, 1, 2, 3, 4, 5, 22, 23,
    ]  # fmt: skip
    assert [hour for hour in range(24) if hour in Hours(start=10, end=13)] == [10, 11, 12]


def test_a_window_has_both_ends_and_a_word_for_the_unknown() -> None:
    window = Window(least=-1, most=2)
    assert [window.holds(hours) for hours in (-1.01, -1, 0, 2, 2.01, None)] == [
        False, True, True, True, False, False,
    ]  # fmt: skip
    assert Window(least=0, or_unknown=True).holds(None)


def test_the_rows_have_the_public_columns() -> None:
    # The profile fields of the spec that are no habitual place are columns of a row.
    from gplan_jax.synthesis.triggers.trigger_spec import PROFILE_FIELDS

    coded = [name for name in PROFILE_FIELDS if name.startswith("profile_feat")]
    assert set(coded) <= set(Sample.from_context({}).to_dict())
