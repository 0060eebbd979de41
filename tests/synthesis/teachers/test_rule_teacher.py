from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from gplan_jax.foundation import GplanError, RowError
from gplan_jax.gsisr import IntentLibrary, RowPlace, Sample, check_plan, parse_label
from gplan_jax.synthesis.teachers.teacher import RuleTeacher, TeacherAnswer
from gplan_jax.synthesis.world.faults import BROKEN_REASONING, CODES, FAULTY_SHARE


def _answers(teacher: RuleTeacher, rows: list[Sample]) -> list[TeacherAnswer]:
    async def ask() -> list[TeacherAnswer]:
        return [await teacher.answer(row.with_label("")) for row in rows]

    return asyncio.run(ask())


def test_the_teacher_errs_as_often_as_it_should_and_each_time_alike(
    world_rows: list[Sample], library: IntentLibrary
) -> None:
    teacher = RuleTeacher(library, FAULTY_SHARE)
    assert (teacher.name, RuleTeacher(library).name) == ("world", "rules")
    answers = _answers(teacher, world_rows)
    assert answers[:300] == _answers(RuleTeacher(library, FAULTY_SHARE), world_rows[:300])
    codes: Counter[str] = Counter()
    for row, answer in zip(world_rows, answers, strict=True):
        planted = answer.origin.get("planted")
        found = {violation.code for violation in check_plan(answer.text, library)}
        if planted is None:
            assert answer.text == row.raw_labels and not found
        elif planted == BROKEN_REASONING:
            assert not found
            with pytest.raises(RowError):
                parse_label(row.with_label(answer.text), library, RowPlace("world", 1))
        else:
            assert found == {planted}
        codes[planted or "none"] += 1
    assert set(codes) == {*CODES, BROKEN_REASONING, "none"}
    assert 1 - codes["none"] / len(answers) == pytest.approx(0.289, abs=0.04)
    assert all(
        answer.text == row.raw_labels
        for row, answer in zip(world_rows, _answers(RuleTeacher(library), world_rows), strict=True)
    )
    assert all(answer.origin for answer in _answers(RuleTeacher(library, 1.0), world_rows[:50]))


def test_a_share_of_faults_is_a_share(library: IntentLibrary) -> None:
    with pytest.raises(GplanError, match=r"1\.5"):
        RuleTeacher(library, 1.5)
