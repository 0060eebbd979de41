"""A user's taste: whose texts it hangs on, and how it chooses."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.gsisr import COLUMNS, Sample, Service
from gplan_jax.gsisr.context_pairs import SHARED_COLUMNS, SPATIOTEMPORAL_COLUMNS
from gplan_jax.gsisr.row_form import RowForm
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from gplan_jax.synthesis.rules.taste import Draws, digest_of
from gplan_jax.synthesis.world.data_world import simulate_service
from tests.synthesis.situations import AMAP

ROW = Sample.from_context({"id": "7", "trigger_1": "酒店", "currenttime": "2026-03-10 12:00:00"})


@pytest.mark.parametrize("column", COLUMNS)
def test_a_taste_of_the_public_set_is_of_the_shared_columns(column: str) -> None:
    changed = dataclasses.replace(ROW, **{column: "something else"})
    assert (AMAP.taste(changed) == AMAP.taste(ROW)) is (column not in SHARED_COLUMNS)
    assert not {*SHARED_COLUMNS} & {*SPATIOTEMPORAL_COLUMNS, "raw_labels"}


ROLES_OF_USERS = ("id", "home_city", "home_place", "home_area", "work_place", "work_area", "recent")
OTHER_ROLES = ("time", "place", "category", "city", "district", "order_type", "order_start")


@st.composite
def forms(draw: st.DrawFn) -> tuple[RowForm, set[str]]:
    """The rows of a service, and which of its columns are the user's own."""
    roles = draw(st.lists(st.sampled_from(ROLES_OF_USERS + OTHER_ROLES), unique=True))
    roles = list(dict.fromkeys([*roles, "id", "time", "label"]))
    # A role says more than a group; where a service says no group, it is the profile's.
    groups = st.sampled_from([None, "profile", "history", "time and place", "trigger"])
    columns: dict[str, Any] = {f"the {role}": {"role": role} for role in roles}
    columns |= {f"own {number}": {} for number in range(draw(st.integers(0, 5)))}
    for column in columns.values():
        if group := draw(groups):
            column["group"] = group
    own = {
        name
        for name, column in columns.items()
        if column.get("role") in ROLES_OF_USERS
        or ("role" not in column and column.get("group", "profile") in ("profile", "history"))
    }
    return RowForm.model_validate({"columns": columns}), own


@given(forms(), st.data())
def test_a_taste_is_of_profile_and_history_alone(
    found: tuple[RowForm, set[str]], data: st.DataObject
) -> None:
    form, own = found
    column = data.draw(st.sampled_from([name for name in form.columns if name != form.label]))
    texts = dict.fromkeys(form.columns, "") | {form.names["currenttime"]: "2026-05-04 18:16"}
    one, other = (
        Sample.from_context(texts | {column: text}, form)
        for text in ("2026-05-04 18:16", "2026-05-09 03:00")
    )
    assert one != other
    same = digest_of(one, ("profile", "history")) == digest_of(other, ("profile", "history"))
    assert same is (column not in own)


def test_a_guides_weather_time_place_and_booking_leave_the_taste() -> None:
    library = Service.load("city_guide").library
    rules, form = ServiceRules(library), library.form
    users = ("user_id", "age_group", "interests", "home_city", "home", "home_area", "work",
             "work_area", "recent", "habits")  # fmt: skip
    for row in itertools.islice(simulate_service(library, 3), 20):
        for column in [name for name in form.columns if name != form.label]:
            moved = Sample.from_context(row.context() | {column: "2031-01-01 01:00:00"}, form)
            assert (rules.taste(moved) == rules.taste(row)) is (column not in users), column


@given(st.binary(min_size=32, max_size=32), st.text(max_size=20))
def test_a_level_is_a_share_and_stays(digest: bytes, question: str) -> None:
    taste = Draws(digest)
    assert 0 <= taste.level(question) < 1
    assert taste.level(question) == Draws(digest).level(question)


def test_options_are_chosen_as_often_as_their_weights_say() -> None:
    options = [("a", 60.0), ("b", 30.0), ("c", 10.0)]
    tastes = [Draws(i.to_bytes(32, "big")) for i in range(5000)]
    chosen = Counter(taste.choose("question", options) for taste in tastes)
    for option, weight in options:
        assert chosen[option] / 5000 == pytest.approx(weight / 100, abs=0.03)
    # Another question is another draw.
    other = Counter((t.choose("question", options), t.choose("another", options)) for t in tastes)
    assert other["a", "a"] / 5000 == pytest.approx(0.36, abs=0.03)
