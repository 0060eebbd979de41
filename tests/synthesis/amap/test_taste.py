from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.gsisr import COLUMNS, Sample
from gplan_jax.gsisr.context_pairs import SHARED_COLUMNS, SPATIOTEMPORAL_COLUMNS
from gplan_jax.synthesis.amap.taste import Taste, taste_of

ROW = Sample.from_context({"id": "7", "trigger_1": "酒店", "currenttime": "2026-03-10 12:00:00"})


@pytest.mark.parametrize("column", COLUMNS)
def test_a_taste_is_of_the_shared_columns_never_of_time_and_place(column: str) -> None:
    changed = dataclasses.replace(ROW, **{column: "something else"})
    assert (taste_of(changed) == taste_of(ROW)) is (column not in SHARED_COLUMNS)
    assert not {*SHARED_COLUMNS} & {*SPATIOTEMPORAL_COLUMNS, "raw_labels"}


def test_what_a_history_shows() -> None:
    def taste(short: str = "", long: str = "") -> Taste:
        return taste_of(
            dataclasses.replace(ROW, short_term_behavior_seq=short, long_term_behavior=long)
        )

    assert not taste().drives and taste().likes == frozenset()
    assert not taste(long="加油站的p_1act_8了3次").drives
    assert taste("在3月1日周日8点act_7了位于本地停车场的p_3", "加油站的p_1act_8了3次").drives
    assert taste(long="5A景区的p_1act_8了3次 , 商场的p_2act_8了1次").likes == {"景点", "购物"}


@given(st.binary(min_size=32, max_size=32), st.text(max_size=20))
def test_a_level_is_a_share_and_stays(digest: bytes, question: str) -> None:
    taste = Taste(digest, False, frozenset())
    assert 0 <= taste.level(question) < 1
    assert taste.level(question) == Taste(digest, True, frozenset()).level(question)


def test_options_are_chosen_as_often_as_their_weights_say() -> None:
    options = [("a", 60.0), ("b", 30.0), ("c", 10.0)]
    tastes = [Taste(i.to_bytes(32, "big"), False, frozenset()) for i in range(5000)]
    chosen = Counter(taste.choose("question", options) for taste in tastes)
    for option, weight in options:
        assert chosen[option] / 5000 == pytest.approx(weight / 100, abs=0.03)
    # Another question is another draw.
    other = Counter((t.choose("question", options), t.choose("another", options)) for t in tastes)
    assert other["a", "a"] / 5000 == pytest.approx(0.36, abs=0.03)
