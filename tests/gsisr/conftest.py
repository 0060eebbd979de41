"""An invented English library and invented rows, for tests of everything that reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gplan_jax.gsisr import IntentLibrary, Sample

ENGLISH = """
name: campus
tool_key: action
parameters:
  target: {meaning: where to, values: {library: books, canteen: food, that place: the last one}}
  note: {meaning: free words}
tools:
  walk: {meaning: go on foot, parameters: [target], optional: [note], yields_place: true}
  bus: {meaning: take the bus, parameters: [target], yields_place: true}
  remind: {meaning: remind of a date, parameters: [note]}
  rest: {meaning: do nothing}
previous_place: that place
exclusive_groups: [[walk, bus]]
plan_length: {minimum: 1, maximum: 3}
relevance_parameters: [target]
"""


@pytest.fixture
def amap() -> IntentLibrary:
    return IntentLibrary.load()


@pytest.fixture
def english_file(tmp_path: Path) -> Path:
    path = tmp_path / "campus.yaml"
    path.write_text(ENGLISH, encoding="utf-8")
    return path


@pytest.fixture
def english(english_file: Path) -> IntentLibrary:
    return IntentLibrary.load(english_file)


@pytest.fixture
def sample() -> Sample:
    """An invented guest of a hotel in another city, an hour after booking it."""
    return Sample.from_context(
        {
            "id": "u1",
            "profile_feat_5": "甲市",
            "profile_feat_6": "p_1",
            "profile_feat_7": "甲市东区",
            "profile_feat_8": "p_2",
            "profile_feat_9": "甲市西区",
            "short_term_behavior_seq": (
                "在12月31日周三23点act_7了位于本地住宅区的p_1, "
                "在3月4日周三8点act_3位于异地行前高铁站的p_5, "
                "在3月4日周三9点act_5了&act_2了位于未知地点舒适型的p_9"
            ),
            "long_term_behavior": "住宅区的p_1act_8&act_7了12次 , 舒适型的p_9act_4了2次",
            "currenttime": "2026-03-04 10:30:00",
            "holidayflag": "0",
            "weekendflag": "0",
            "current_poi_name": "p_5",
            "current_tag": "高铁站",
            "current_city": "乙市",
            "current_district": "南区",
            "trigger_1": "酒店",
            "trigger_2": "乙市",
            "trigger_3": "北区",
            "trigger_4": "p_9",
            "trigger_5": "2026-03-04 09:30:00",
            "trigger_6": "2026-03-04 00:00:00",
            "trigger_7": "2026-03-05 00:00:00",
            "raw_labels": '[{"工具名称":"tool_9"},{"工具名称":"tool_6"},{"工具名称":"tool_8"}]',
        }
    )
