"""The rubric file: what it must say, and that another one needs no change of code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gplan_jax.evaluation.judge.prompt import JudgePrompt
from gplan_jax.evaluation.judge.replies import read_scores
from gplan_jax.evaluation.judge.rubric import RUBRIC, Rubric
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample

SAMPLE = Sample.from_context({"currenttime": "2026-01-05 08:00:00"})


def changed(path: Path, **changes: Any) -> Path:
    values = yaml.safe_load(RUBRIC.read_text(encoding="utf-8"))
    kept = {key: value for key, value in {**values, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(kept, allow_unicode=True), encoding="utf-8")
    return path


def test_the_shipped_rubric_is_the_papers() -> None:
    rubric = Rubric.load()
    assert list(rubric.axes) == ["flow", "logic", "spatiotemporal"]
    assert sorted(rubric.levels) == [1, 2, 3, 4, 5]
    assert "default" in rubric.levels[3]


def test_another_rubric_has_other_axes_in_prompt_and_reply(tmp_path: Path) -> None:
    axis = {"name": "Tone", "question": "Kind?", "positive": ["warm"], "failures": ["cold"]}
    rubric = Rubric.load(changed(tmp_path / "r.yaml", axes={"tone": axis}))
    system, _ = JudgePrompt.load().score(SAMPLE, [], rubric, IntentLibrary.load())
    assert '{"tone": {"reason": "...", "score": 3}}' in system and "flow" not in system
    assert read_scores('{"tone": {"reason": "warm", "score": 4}}', ["tone"])["tone"].score == 4
    assert rubric.digest != Rubric.load().digest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"levels": {3: "so", 4: "la"}}, "levels: given are 3, 4"),
        ({"axes": {}}, "axes"),
        ({"axes": {"My Axis": {"name": "a", "question": "b", "positive": ["c"],
                               "failures": ["d"]}}}, "'My Axis' can't be a key"),
        ({"axes": {"a": {"name": "a", "question": "b", "positive": []}}}, "axes.a.failures: miss"),
        ({"task": None}, "task: missing"),
        ({"taks": "x"}, "did you mean task"),
        ({"levels": {"three": "x"}}, "levels"),
    ],
)  # fmt: skip
def test_faults_are_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(GplanError, match=said):
        Rubric.load(changed(tmp_path / "r.yaml", **changes))
