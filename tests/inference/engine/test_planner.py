"""The planner's modes over one small model directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Sample, check_plan, latent_valid
from gplan_jax.inference.engine.planner import Planner

OPTIONS = {"template": "compact_zh", "prompt_length": 240, "max_new_tokens": 160, "batch_size": 1}


def test_modes_that_follow_the_grammar_agree(
    tiny_model_dir: Path, world_rows: list[Sample]
) -> None:
    texts = [
        Planner.load(tiny_model_dir, mode=mode, response="latent", **OPTIONS).generate(  # type: ignore[arg-type]
            world_rows[:3]
        )
        for mode in ("constrained", "drafted")
    ]
    assert texts[0] == texts[1]
    for text in texts[0]:
        assert (
            latent_valid(text)
            and check_plan(text, Planner.load(tiny_model_dir, service="amap").library) == []
        )


@pytest.mark.slow
def test_draws_and_searches(tiny_model_dir: Path, world_rows: list[Sample]) -> None:
    rows = [world_rows[0]] * 4

    def plans(**options: object) -> list[str]:
        given = OPTIONS | {"mode": "drafted", "response": "plan"} | options
        return Planner.load(tiny_model_dir, **given).generate(rows)  # type: ignore[arg-type]

    drawn = plans(temperature=1.0, seed=3)
    assert drawn == plans(temperature=1.0, seed=3) and len(set(drawn)) > 1
    assert len(set(plans(best=1))) == 1


def test_the_form_of_responses_is_found_beside_the_model(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_model_dir.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "task.json").write_text(json.dumps({"max_length": 300, "response": "reasoning"}))
    planner = Planner.load(folder, mode="drafted", **OPTIONS)  # type: ignore[arg-type]
    assert planner.task.response == "reasoning"
    with pytest.raises(GplanError, match=r"reasoning in words.*--mode unconstrained"):
        planner.generate([sample_of(folder)])


def sample_of(folder: Path) -> Sample:
    return Sample.from_context({"id": folder.name, "currenttime": "2026-01-01 10:00:00"})


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"temperature": 1.0}, "for the constrained modes"),
        ({"best": 2}, "for the constrained modes"),
        ({"mode": "drafted", "best": 2, "temperature": 1.0}, "draws nothing"),
    ],
)
def test_options_that_contradict(
    tiny_model_dir: Path, options: dict[str, object], fault: str
) -> None:
    with pytest.raises(GplanError, match=fault):
        Planner.load(tiny_model_dir, service="amap", **options)  # type: ignore[arg-type]


def test_no_rows_no_plans(tiny_model_dir: Path) -> None:
    assert Planner.load(tiny_model_dir, mode="drafted", **OPTIONS).generate([]) == []  # type: ignore[arg-type]
