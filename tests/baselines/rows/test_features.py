"""What a row becomes: known positions, defined answers to gaps, and nothing that a mode hides."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.baselines.rows import features
from gplan_jax.baselines.rows.features import (
    ABSENT,
    CONTEXT_COLUMNS,
    UNKNOWN,
    FeatureEncoder,
    InputMode,
    Token,
    Vocabulary,
    bucket,
    history_only,
)
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import COLUMNS, Sample

ROW = Sample.from_context(
    {
        "id": "1",
        "profile_feat_1": "1",
        "profile_feat_5": "甲市",
        "profile_feat_6": "p_home",
        "profile_feat_8": "p_work",
        "profile_feat_13": "pf_12:低|pf_2:高",
        "short_term_behavior_seq": (
            "在1月4日周日9点act_7了&act_1了位于本地公园的p_3, "
            "在1月5日周一7点act_4了位于本地经济型的p_2"
        ),
        "long_term_behavior": "公司的p_workact_8了78次 , 住宅区的p_homeact_7&act_4了6次",
        "currenttime": "2026-01-05 08:30:00",
        "weekendflag": "0",
        "holidayflag": "1",
        "current_poi_name": "p_home",
        "current_tag": "住宅区",
        "current_city": "甲市",
        "current_district": "乙区",
        "trigger_1": "酒店",
        "trigger_2": "甲市",
        "trigger_3": "丙区",
        "trigger_4": "p_2",
        "trigger_5": "2026-01-05 08:20:00",
        "trigger_6": "2026-01-05 00:00:00",
        "trigger_7": "2026-01-06 00:00:00",
    }
)
FULL = FeatureEncoder.fit([ROW, ROW], InputMode.FULL)
HISTORY = FeatureEncoder.fit([ROW, ROW], InputMode.HISTORY)
ENCODERS = {"full": FULL, "history": HISTORY}


def tokens(encoder: FeatureEncoder, row: Sample, position: int) -> dict[str, list[str]]:
    """Field -> values of a position, read back through the vocabulary."""
    names = {number: token for token, number in encoder.vocabulary.numbers.items()}
    found: dict[str, list[str]] = {}
    for number in encoder.encode([row])[0, position]:
        if number:
            found.setdefault(names[int(number)].field, []).append(names[int(number)].value)
    return found


def test_positions_in_order() -> None:
    assert (FULL.positions, HISTORY.positions) == (4 + 10 + 10 + 6, 4 + 10 + 10)
    filled = FULL.encode([ROW])[0].any(axis=1)
    assert filled.tolist() == (
        [True] * 4 + [True] * 2 + [False] * 8 + [False] * 8 + [True] * 2 + [True] * 6
    )


def test_an_event_tells_its_place_its_actions_and_its_age() -> None:
    assert tokens(FULL, ROW, 23) == {
        "category": ["经济型"],
        "kind": ["hotel"],
        "place": tokens(FULL, ROW, 23)["place"],
        "relation": ["order"],
        "event_actions": ["act_4"],
        "event_age": ["1"],  # 1.5 hours: from 1 to 2.
        "event_part": ["morning"],
        "locality": ["本地"],
    }
    assert tokens(FULL, ROW, 22)["event_actions"] == ["act_1+act_7"]
    assert tokens(FULL, ROW, 22)["relation"] == ["other"]


def test_habits_say_which_place_is_home_work_or_the_current_one() -> None:
    assert tokens(FULL, ROW, 4)["relation"] == ["work"]
    assert tokens(FULL, ROW, 5)["relation"] == ["home+current"]
    # The history mode knows no current place, hence no such relation.
    assert tokens(HISTORY, ROW, 5)["relation"] == ["home"]
    assert tokens(HISTORY, ROW, 23)["relation"] == ["other"]


def test_the_order_comes_last_and_tells_where_its_place_lies() -> None:
    last = tokens(FULL, ROW, -1)
    assert last["order_type"] == ["酒店"] and last["distance"] == ["city"]
    assert last["order_at_home"] == ["no"] and last["phase"] == ["during"]
    times = tokens(FULL, ROW, -2)
    assert times["since_order"] == [bucket(10, (5, 15))] == ["1"]
    assert times["midnight"] == ["yes"]


@given(st.lists(st.sampled_from(CONTEXT_COLUMNS), unique=True), st.sampled_from(["", "x"]))
def test_the_history_mode_does_not_see_the_context(columns: list[str], value: str) -> None:
    other = dataclasses.replace(ROW, **dict.fromkeys(columns, value))
    np.testing.assert_array_equal(HISTORY.encode([other]), HISTORY.encode([ROW]))


def test_the_history_mode_uses_the_time_for_ages_alone() -> None:
    # Hour, day and distance to the order change; the events' age buckets do not.
    later = dataclasses.replace(ROW, currenttime="2026-01-05 08:59:00")
    np.testing.assert_array_equal(HISTORY.encode([later]), HISTORY.encode([ROW]))
    tomorrow = dataclasses.replace(ROW, currenttime="2026-01-06 08:30:00")
    changed = HISTORY.encode([tomorrow]) != HISTORY.encode([ROW])
    assert set(np.argwhere(changed)[:, 1].tolist()) == {22, 23}


def test_history_only_empties_what_the_mode_hides() -> None:
    hidden = history_only(ROW)
    assert [c for c in COLUMNS if getattr(hidden, c) != getattr(ROW, c)] == [
        c for c in COLUMNS if c in CONTEXT_COLUMNS and getattr(ROW, c)
    ]
    np.testing.assert_array_equal(HISTORY.encode([hidden]), HISTORY.encode([ROW]))


@pytest.mark.parametrize("name", ENCODERS)
def test_the_label_is_not_looked_at(name: str) -> None:
    encoder, labelled = ENCODERS[name], ROW.with_label('[{"工具名称":"tool_6"}]')
    np.testing.assert_array_equal(encoder.encode([labelled]), encoder.encode([ROW]))
    assert FeatureEncoder.fit([labelled] * 2, encoder.mode) == encoder


def test_an_unknown_value_is_its_fields_unknown_and_a_missing_one_its_absent() -> None:
    strange = dataclasses.replace(ROW, current_tag="月球基地", trigger_1="火箭", trigger_5="")
    assert tokens(FULL, strange, 25)["category"] == [UNKNOWN]
    assert tokens(FULL, strange, -1)["order_type"] == [UNKNOWN]
    assert tokens(FULL, strange, -2)["since_order"] == [ABSENT]
    assert tokens(FULL, dataclasses.replace(ROW, trigger_1=""), -1)["order_type"] == [ABSENT]


def test_a_rare_value_counts_as_unknown() -> None:
    rare = dataclasses.replace(ROW, trigger_1="门票")
    encoder = FeatureEncoder.fit([ROW, ROW, rare], InputMode.FULL)
    assert tokens(encoder, rare, -1)["order_type"] == [UNKNOWN]
    assert tokens(FeatureEncoder.fit([rare], InputMode.FULL, min_count=1), rare, -1)[
        "order_type"
    ] == ["门票"]


def test_an_empty_history_is_one_position_that_says_so() -> None:
    empty = dataclasses.replace(ROW, short_term_behavior_seq="", long_term_behavior="")
    assert tokens(FULL, empty, 4) == {"habits": [ABSENT]}
    assert tokens(FULL, empty, 23) == {"events": [ABSENT]}
    assert not FULL.encode([empty])[0, 5:23].any()


def test_entries_that_cannot_be_read_are_left_out() -> None:
    spoilt = dataclasses.replace(
        ROW,
        short_term_behavior_seq="昨天去了公园, " + ROW.short_term_behavior_seq + ", 在13月40日",
        long_term_behavior="?, " + ROW.long_term_behavior,
    )
    np.testing.assert_array_equal(FULL.encode([spoilt]), FULL.encode([ROW]))


def test_longer_histories_keep_the_newest_and_the_most_frequent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(features, "HABITS", 1)
    monkeypatch.setattr(features, "EVENTS", 1)
    assert HISTORY.encode([ROW]).shape == (1, 6, 8)
    assert tokens(HISTORY, ROW, 4)["relation"] == ["work"]
    assert tokens(HISTORY, ROW, 5)["category"] == ["经济型"]


def test_a_row_of_nothing_but_a_time_is_encoded_and_one_without_a_time_refused() -> None:
    bare = Sample.from_context({"id": "7", "currenttime": "2026-01-05 08:30:00"})
    for encoder in ENCODERS.values():
        assert encoder.encode([bare]).max() < encoder.vocabulary.size
        with pytest.raises(GplanError, match="currenttime is empty"):
            encoder.encode([dataclasses.replace(bare, currenttime="")])
        with pytest.raises(GplanError, match="sample 7 is 'noon'"):
            encoder.encode([dataclasses.replace(bare, currenttime="noon")])


def test_encoding_row_by_row_is_encoding_all(world_rows: list[Sample]) -> None:
    encoder = FeatureEncoder.fit(world_rows, InputMode.FULL)
    together = encoder.encode(world_rows)
    assert together.dtype == np.int32
    assert together.shape == (len(world_rows), encoder.positions, encoder.width)
    np.testing.assert_array_equal(together[3], encoder.encode(world_rows[3:4])[0])
    assert FeatureEncoder.fit(world_rows[::-1], InputMode.FULL) == encoder


def test_vocabulary_numbers_absent_unknown_and_values_by_field() -> None:
    vocabulary = Vocabulary.fit([Token("a", "y"), Token("a", "x"), Token("b", "")], ["a", "b"])
    numbers = {("a", ABSENT): 1, ("a", UNKNOWN): 2, ("a", "x"): 3, ("a", "y"): 4}
    assert vocabulary.numbers == {**numbers, ("b", ABSENT): 5, ("b", UNKNOWN): 6}
    assert vocabulary.size == 7
    assert [vocabulary.number(Token("a", v)) for v in ("", "x", "z")] == [1, 3, 2]
    with pytest.raises(GplanError, match="no field c"):
        vocabulary.number(Token("c", "x"))
