"""Rows without a usable plan are left out; folds cover all others, each user in one of them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.rows.labelled_rows import check_apart, folds_by_id, labelled_rows
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan

LIBRARY = IntentLibrary.load()
ATOMS = Atoms.of(LIBRARY)
CARD, WEATHER, REMINDER, TRAIN = ({"工具名称": f"tool_{n}"} for n in (6, 9, 8, 3))


def row(label: str, user: str = "u") -> Sample:
    return Sample.from_context({"id": user, "raw_labels": label})


def rows(users: list[int]) -> list[Sample]:
    return [Sample.from_context({"id": f"u{user}"}) for user in users]


USERS = st.lists(st.integers(0, 30), min_size=1, max_size=80).filter(lambda u: len(set(u)) >= 4)


@given(users=USERS, count=st.integers(2, 4), seed=st.integers(0, 3))
def test_folds_are_whole_balanced_and_cover_all(users: list[int], count: int, seed: int) -> None:
    samples = rows(users)
    folds = folds_by_id(samples, count, seed)
    assert len(folds) == count
    assert sorted(index for fold in folds for index in fold.test) == list(range(len(samples)))
    for fold in folds:
        assert sorted(fold.train + fold.test) == list(range(len(samples)))
        check_apart([samples[i] for i in fold.train], [samples[i] for i in fold.test])
        assert fold.test and fold.train == tuple(sorted(fold.train))
    sizes = [len(fold.test) for fold in folds]
    assert max(sizes) - min(sizes) <= max(Counter(users).values())


@given(users=USERS, order=st.randoms())
def test_folds_hang_on_ids_and_seed_alone(users: list[int], order) -> None:  # type: ignore[no-untyped-def]
    samples = rows(users)
    shuffled = list(samples)
    order.shuffle(shuffled)

    def parts(samples: list[Sample]) -> list[set[str]]:
        return [{samples[i].id for i in fold.test} for fold in folds_by_id(samples, 3, 5)]

    assert parts(samples) == parts(shuffled)


def test_another_seed_deals_out_differently() -> None:
    samples = rows(list(range(50)))
    assert folds_by_id(samples, 5, 0) == folds_by_id(samples, 5, 0) != folds_by_id(samples, 5, 1)


def test_too_few_users_or_folds_are_refused() -> None:
    with pytest.raises(GplanError, match="2 ids, too few for 3"):
        folds_by_id(rows([1, 1, 1, 2]), 3)
    with pytest.raises(GplanError, match="1 folds"):
        folds_by_id(rows([1, 2]), 1)


def test_a_user_on_both_sides_is_named() -> None:
    with pytest.raises(GplanError, match="id u2 "):
        check_apart(rows([1, 2]), rows([2, 3]))
    with pytest.raises(GplanError, match=r"id u1 \(and 1 more"):
        check_apart(rows([1, 2]), rows([2, 1]))
    check_apart(rows([1, 2]), rows([3]))


def test_rows_without_a_usable_plan_are_left_out_with_a_reason() -> None:
    good = canonical_plan([CARD, WEATHER, REMINDER])
    broken = canonical_plan([CARD, WEATHER, {"工具名称": "tool_7", "tag": "滑雪"}])
    rows = labelled_rows(
        [row(""), row(good), row(broken, "v"), row(canonical_plan([CARD] * 10)), row("[]")], ATOMS
    )
    assert [ATOMS.text(plan) for plan in rows.plans] == [good]
    assert rows.samples == (row(good),)
    empty, unknown, long, none = rows.left_out
    assert empty.startswith("row 1 (id u)") and "no plan" in empty and "no plan" in none
    assert "row 3 (id v)" in unknown and "滑雪" in unknown
    assert "10 intents, not 3 to 9" in long


def test_a_label_that_breaks_a_logic_rule_stays() -> None:
    assert len(labelled_rows([row(canonical_plan([CARD, CARD, WEATHER]))], ATOMS).plans) == 1


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(GplanError, match=r"nothing to fit.*row 1"):
        labelled_rows([row("")], ATOMS)
