"""`gplan sensitivity` as a user calls it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from gplan_jax.cli import evaluation, main
from gplan_jax.cli.options import named_paths
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import (
    ContextPair,
    Provenance,
    Sample,
    Service,
    canonical_plan,
    write_context_pairs,
)
from gplan_jax.inference.engine.planner import Planner
from gplan_jax.reasoning import GSISR_LATENTS

PLAN, OTHER = (
    canonical_plan([{"工具名称": f"tool_{n}"} for n in t]) for t in ((6, 8, 9), (9, 6, 8))
)
THOUGHT = (
    "<THOUGHT><CONTEXT>a</CONTEXT><STRATEGY>b</STRATEGY>"
    "<STEP_1>c</STEP_1><STEP_2>d</STEP_2><STEP_3>e</STEP_3></THOUGHT>"
)


class TellingPlanner:
    """Answers every context with PLAN."""

    class encoder:
        latents = GSISR_LATENTS

    class task:
        has_latents = True

    def generate(self, samples: Sequence[Sample]) -> list[str]:
        return [PLAN] * len(samples)


@pytest.fixture(autouse=True)
def telling_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Planner, "load", lambda *_, **__: TellingPlanner())


def call(*arguments: Any) -> Result:
    app = typer.Typer()
    app.command()(evaluation.sensitivity)
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "100"})


@pytest.fixture
def arguments(tmp_path: Path) -> list[Any]:
    for model in ("picd/model", "dpo/model"):
        (tmp_path / model).mkdir(parents=True)
        (tmp_path / model / "weights").write_text(model, encoding="utf-8")
        amap = Service.load("amap")
        GsisrTask(amap.template(), amap.library).save(tmp_path / model)
    known = {"id": "u", "currenttime": "2026-03-04 10:30:00", "raw_labels": THOUGHT + PLAN}
    anchor = Sample.from_context({**known, "holidayflag": "0", "weekendflag": "0"})
    later = dataclasses.replace(
        anchor, currenttime="2026-03-04 22:30:00", raw_labels=THOUGHT + OTHER
    )
    origin = Provenance("u", 1, "hours_later", ("currenttime",), "rules", "passed")
    write_context_pairs(tmp_path / "pairs.jsonl", [ContextPair("1", anchor, later, origin)])
    models = ("--model", tmp_path / "picd/model", "--model", f"SC-DPO={tmp_path / 'dpo/model'}")
    return [*models, "--pairs", tmp_path / "pairs.jsonl", "--out", tmp_path / "out"]


def test_the_table_is_shown_and_kept(arguments: list[Any], tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"kind": "step", "step": 1, "rewards/margins": 0.1}\n', encoding="utf-8")
    result = call(*arguments, "--log", f"SC-DPO={log}")
    assert result.exit_code == 0, result.output
    for words in ("Context sensitivity", "picd", "SC-DPO", "one plan for both", "Finished."):
        assert words in result.output
    kept = (tmp_path / "out" / "results.txt").read_text(encoding="utf-8")
    assert kept.splitlines()[0].strip() == "Context sensitivity"
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "picd",
        "SC-DPO",
        "results.json",
        "results.txt",
        "preference_curves.png",
    }


def test_two_models_of_one_name_are_refused(arguments: list[Any], tmp_path: Path) -> None:
    result = call(*arguments, "--model", f"picd={tmp_path}")
    assert isinstance(result.exception, GplanError)
    assert "two are called 'picd'" in str(result.exception)


@pytest.mark.parametrize(
    ("value", "name", "path"),
    [
        ("runs/picd/model", "picd", "runs/picd/model"),
        ("runs/picd", "picd", "runs/picd"),
        ("runs/picd/", "picd", "runs/picd"),
        ("SC-DPO=runs/x", "SC-DPO", "runs/x"),
        ("a=b=c", "a", "b=c"),
    ],
)
def test_a_path_has_the_name_it_is_given_or_its_own(value: str, name: str, path: str) -> None:
    assert named_paths("--model", [value]) == {name: Path(path)}


def test_help_shows_an_example_and_the_command_is_there() -> None:
    result = call("--help")
    assert result.exit_code == 0
    assert "gplan sensitivity --model" in " ".join(result.output.split())
    assert "sensitivity" in CliRunner().invoke(main.app, ["--help"]).output
