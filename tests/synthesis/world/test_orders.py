from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gplan_jax.gsisr import Sample
from gplan_jax.synthesis.world.calibration import tables
from gplan_jax.synthesis.world.orders import OrderTimes, draw_times
from tests.synthesis.situations import AMAP

TYPES = sorted(tables()["order_types"])
MOMENTS = st.datetimes(datetime(2026, 3, 2), datetime(2026, 5, 31)).map(
    lambda moment: moment.replace(microsecond=0)
)


def _phase(order_type: str, now: datetime, times: OrderTimes) -> str:
    columns = {
        "trigger_1": order_type,
        "currenttime": str(now),
        "trigger_6": str(times.start),
        "trigger_7": str(times.end) if times.end else "",
    }
    return str(AMAP.tell(Sample.from_context(columns)).known["phase"]).upper()


@given(st.sampled_from(TYPES), MOMENTS, st.integers(0, 10**6))
@example("其他", datetime(2026, 3, 2, 11), 529)  # Valid for the day on which it began.
def test_an_order_is_made_today_and_lasts_as_its_type_does(
    order_type: str, now: datetime, seed: int
) -> None:
    times = draw_times(order_type, now, random.Random(seed))
    assert times.made is None or (times.made <= now and times.made.date() == now.date())
    assert times.end is None or times.start < times.end
    if order_type in ("加油", "充电桩"):
        assert times.end is None
    elif order_type == "门票":
        assert times.end is None or times.end - times.start == timedelta(days=30)
    found = _phase(order_type, now, times)
    assert found in {*tables()["phases"][order_type], "JUST_STARTED"}


@pytest.mark.parametrize("order_type", ["酒店", "加油", "其他"])
def test_phases_come_as_often_as_the_table_says(order_type: str) -> None:
    generator = random.Random(1)
    phases: Counter[str] = Counter()
    for _ in range(3000):
        now = datetime(2026, 3, 10) + timedelta(seconds=generator.randrange(7 * 3600, 86_400))
        phases[_phase(order_type, now, draw_times(order_type, now, generator))] += 1
    table = tables()["phases"][order_type]
    for name, weight in table.items():
        # Late hours rule some out: then another is drawn.
        assert phases[name] / 3000 == pytest.approx(weight / sum(table.values()), abs=0.14), name
