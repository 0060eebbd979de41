"""Which fit comes next."""

from __future__ import annotations

from gplan_jax.evaluation.comparison.jobs import Job, next_job

A0, A1 = Job("a", 0, 0), Job("a", 1, 0)
LATER = Job("a", 0, 1)
B0 = Job("b", 0, 0)


def test_a_worker_stays_with_its_arm_and_leaves_others_theirs() -> None:
    assert next_job([A0, A1, B0], [A0, A1, B0], None, ()) == A0
    assert next_job([A1, B0], [A0, A1, B0], "b", ()) == B0
    assert next_job([A1, B0], [A0, A1, B0], None, {"a"}) == B0
    assert next_job([A1], [A0, A1], None, {"a"}) == A1, "rather help than wait"


def test_later_seeds_wait_for_the_choice() -> None:
    assert next_job([LATER], [A0, LATER], None, ()) is None
    assert next_job([LATER, A1], [A0, A1, LATER], "a", ()) == A1
    assert next_job([LATER, A1], [A1, LATER], "a", ()) == LATER
