"""Invented rows, whose first intent follows from the order's type."""

from __future__ import annotations

import pytest

from gplan_jax.gsisr import Sample

PLANS = {
    "酒店": '[{"工具名称":"tool_8"},{"工具名称":"tool_6"},{"工具名称":"tool_9"}]',
    "加油": (
        '[{"工具名称":"tool_7","tag":"加油站"},'
        '{"工具名称":"tool_1","起始位置":"当前位置","终点位置":"家"},{"工具名称":"tool_8"}]'
    ),
}


def row(number: int) -> Sample:
    kind = ("酒店", "加油")[number % 2]
    return Sample.from_context(
        {
            "id": f"u{number}",
            "profile_feat_1": "1",
            "profile_feat_5": "甲市",
            "profile_feat_6": "p_1",
            "profile_feat_7": "甲市东区",
            "short_term_behavior_seq": (
                f"在3月4日周三{number % 9}点act_3位于异地行前高铁站的p_5, "
                "在3月4日周三9点act_5了&act_2了位于未知地点舒适型的p_9"
            ),
            "long_term_behavior": "住宅区的p_1act_8&act_7了12次 , 舒适型的p_9act_4了2次",
            "currenttime": "2026-03-04 10:30:00",
            "current_poi_name": "p_5",
            "current_city": "乙市",
            "current_district": "南区",
            "trigger_1": kind,
            "trigger_2": "乙市",
            "trigger_3": "北区",
            "trigger_4": "p_9",
            "trigger_5": "2026-03-04 09:30:00",
            "raw_labels": PLANS[kind],
        }
    )


@pytest.fixture(scope="session")
def rows() -> list[Sample]:
    return [row(number) for number in range(32)]
