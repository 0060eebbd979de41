"""`gplan evaluate`, `gplan score` and `gplan plan` as a user calls them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from gplan_jax.cli import evaluation
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan, write_samples
from gplan_jax.inference.engine.planner import Planner
from gplan_jax.reasoning import GSISR_LATENTS

PLAN = canonical_plan([{"工具名称": f"tool_{n}"} for n in (6, 8, 9)])


class TellingPlanner:
    """Answers every row with PLAN."""

    class encoder:
        latents = GSISR_LATENTS

    library = IntentLibrary.load()
    task = SimpleNamespace(prompt_length=1888, has_latents=True)
    mode = "unconstrained"
    max_new_tokens = 512

    def generate(self, samples: Sequence[Sample]) -> list[str]:
        return [PLAN] * len(samples)


@pytest.fixture
def telling_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Planner, "load", lambda *_, **__: TellingPlanner())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    write_samples(
        path,
        [
            Sample.from_context(
                {"id": "u1", "currenttime": "2025-01-01 08:00:00", "raw_labels": PLAN}
            )
        ],
    )
    return path


def call(*arguments: Any) -> Result:
    app = typer.Typer()
    for command in (evaluation.evaluate, evaluation.score, evaluation.plan):
        app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "100"})


def test_evaluate_then_score_show_the_same_table(
    data: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    out = tmp_path / "out"
    given = ("--model", tiny_model_dir, "--response", "latent", "--template", "compact_zh")
    first = call("evaluate", *given, "--data", data, "--out", out)
    assert first.exit_code == 0, first.output
    assert f"The result is in {out}" in first.output
    again = call("score", "--predictions", out / "predictions.jsonl")
    assert again.exit_code == 0, again.output

    def model_row(result: Result) -> list[str]:
        return next(line for line in result.output.splitlines() if "100.0" in line).split()[2:]

    assert model_row(first) == model_row(again)


@pytest.mark.usefixtures("telling_planner")
def test_plan_shows_one_row_by_number_by_id_or_from_a_context(data: Path, tmp_path: Path) -> None:
    context = tmp_path / "context.json"
    context.write_text('{"id": "u9"}', encoding="utf-8")
    by_row = call("plan", "--model", "m", "--data", data, "--row", 1)
    by_id = call("plan", "--model", "m", "--data", data, "--id", "u1")
    from_context = call("plan", "--model", "m", "--context", context, "--service", "amap")
    assert by_row.exit_code == by_id.exit_code == from_context.exit_code == 0
    assert by_row.output == by_id.output
    assert "Against the label: Acc@1 1" in by_row.output
    assert "查天气" in from_context.output
    assert "label" not in from_context.output


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--data", "rows.csv"],
        ["--row", "1"],
        ["--data", "rows.csv", "--row", "1", "--id", "u1"],
        ["--data", "rows.csv", "--row", "1", "--context", "context.json"],
    ],
)
def test_plan_says_how_to_name_the_row(arguments: list[str]) -> None:
    result = call("plan", "--model", "m", *arguments)
    assert isinstance(result.exception, GplanError)
    assert "--row N or --id ID, or --context FILE" in str(result.exception)


@pytest.mark.parametrize("command", ["evaluate", "score", "plan"])
def test_help_shows_an_example(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert f"gplan {command} --" in " ".join(result.output.split())
