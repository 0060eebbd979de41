"""`gplan config`, and shipped configs by their names."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gplan_jax.cli.main import app
from gplan_jax.evaluation.judge.chat_judge import JudgeConfig
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import load_config, shipped_configs
from gplan_jax.synthesis.teachers.chat_teacher import TeacherConfig
from gplan_jax.training.steps.train_config import TrainConfig


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["config", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_is_valid_and_known_by_its_name(name: str) -> None:
    kinds = {"judge": JudgeConfig, "teacher": TeacherConfig}
    load_config(kinds.get(name.partition("_")[0], TrainConfig), name)
    assert name in run("list")


def test_the_list_has_a_line_a_config_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("list").splitlines()
    starts = {line.split()[0] for line in lines if line.startswith(" ") and line.split()}
    assert starts >= set(shipped_configs()), "a description is too long for its line"
    assert max(map(len, lines)) <= 80


def test_a_written_config_is_what_show_prints_and_is_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "gplan train text_small.yaml" in run("write", "text_small")
    assert Path("text_small.yaml").read_text("utf-8") == run("show", "text_small")
    with pytest.raises(GplanError, match="never overwritten"):
        run("write", "text_small")
    run("write", "judge_vllm", "--out", "mine/judge.yaml")
    assert JudgeConfig.load("mine/judge.yaml") == JudgeConfig.load("judge_vllm")
    # A file of that name wins over the shipped one; without a suffix too.
    Path("text_small").write_text("mode: picd\n", "utf-8")
    with pytest.raises(GplanError, match="text_small is not a valid config"):
        load_config(TrainConfig, "text_small")


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(GplanError, match=r"no config 'picd'.*picd_qwen3_1_7b"):
        run("show", "picd")
    with pytest.raises(GplanError, match=r"configs/picd_qwen3_4b\.yaml.*own is picd_qwen3_4b\."):
        load_config(TrainConfig, "no/such/configs/picd_qwen3_4b.yaml")


def test_the_shell_completes_names() -> None:
    environment = {"COMP_WORDS": "gplan config show picd", "COMP_CWORD": "3"}
    completed = CliRunner().invoke(
        app, [], prog_name="gplan", env=environment | {"_GPLAN_COMPLETE": "complete_bash"}
    )
    assert completed.output.split() == ["picd_qwen3_1_7b", "picd_qwen3_4b"]
