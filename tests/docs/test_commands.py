"""What README and docs print can be typed: every command is one that the command line takes."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import PAGES, REPOSITORY, commands_of, steps_of
from typer.main import get_command
from typer.testing import CliRunner

from gplan_jax.cli.main import app
from gplan_jax.evaluation.scores.offline import evaluate
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import write_json
from gplan_jax.gsisr import IntentLibrary, PromptTemplate, Sample, split_by_id, write_samples
from gplan_jax.serving.latency.latency_study import free_port

ROOT, DOCS = get_command(app), REPOSITORY / "docs"
# Each from an empty directory; a guide that begins where another ends follows it.
GUIDES = (("own_task",), ("own_tools", "served"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_command_line_takes_every_command_of_a_page(page: Path) -> None:
    """Parsed as it would be, to the last option, without being run."""
    wrong = []
    for command in commands_of(page):
        group, words = ROOT, list(command.words[1:])
        try:
            while hasattr(group, "commands") and words and not words[0].startswith("-"):
                name = words.pop(0)
                if name not in group.commands:
                    raise GplanError(f"there is no gplan {name}")
                group = group.commands[name]
            if not {"--help", "--version"} & set(words):
                group.make_context("gplan", words)
        except Exception as error:  # typer's click is one of its own, whichever is installed
            told = getattr(error, "message", error)
            wrong.append(f"{command.page}:{command.line}: {' '.join(command.words)}: {told}")
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, world_rows: list[Sample]) -> Path:
    """Where a reader of the docs works: rows, and what two planners answered to some of them."""
    here, library = tmp_path_factory.mktemp("reader"), IntentLibrary.load()
    train, test = split_by_id(world_rows, 1 / 3, 0)
    for name, rows in {
        "rows": world_rows,
        "sample": test[:4],
        "train": train,
        "test": test,
    }.items():
        write_samples(here / f"{name}.csv", rows)
    labels = [sample.raw_labels for sample in test]
    for name, texts in (("sft", labels[::-1]), ("picd", labels)):
        evaluate(test, texts, None, library, here / "runs" / f"test_{name}")
    return here


def run_marked(page: Path, speed: str) -> int:
    """Runs a page's blocks that are marked so, as printed; how many commands they have."""
    marked = [command for command in commands_of(page) if command.run == speed]
    for command in marked:
        told = CliRunner().invoke(app, list(command.words[1:]), env={"COLUMNS": "80"})
        said = f"{told.output[-2000:]}\n{told.exception!r}"
        assert told.exit_code == 0, f"{command.page}:{command.line}: {command.words}\n{said}"
    return len(marked)


def marked_pages(speed: str) -> list[Path]:
    return [p for p in PAGES if any(command.run == speed for command in commands_of(p))]


@pytest.mark.parametrize("page", marked_pages("quick"), ids=lambda page: page.name)
def test_quick_blocks_run_as_printed(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert run_marked(page, "quick")


@pytest.mark.slow
@pytest.mark.parametrize("page", marked_pages("slow"), ids=lambda page: page.name)
def test_slow_blocks_run_as_printed(
    page: Path, folder: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for name in ("runs/sft/model", "runs/picd/model", "models/planner"):
        if not Path(name).is_dir():
            shutil.copytree(tiny_model_dir, name)
            known = {"task": "gsisr", "prompt_length": 1000, "response": "plan"}
            write_json(Path(name) / "task.json", known)
            PromptTemplate.load("compact_zh").save(Path(name) / "prompt")
    assert run_marked(page, "slow")


@pytest.mark.parametrize("cut", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("guides", GUIDES, ids="+".join)
def test_guides_run_from_top_to_bottom(
    guides: tuple[str, ...], cut: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that a reader types, with a real server; cut to few rows and steps, or whole."""
    monkeypatch.chdir(tmp_path)
    port, said = str(free_port()), ""
    with contextlib.ExitStack() as servers:
        for step in (step for name in guides for step in steps_of(DOCS / f"{name}.md", cut=cut)):
            text = step.text.replace("8000", port)
            if step.kind == "python":
                exec(compile(text, step.place, "exec"), {})
            elif step.kind != "shell":
                Path(step.kind).write_text(text, "utf-8")
            elif text.startswith("gplan "):
                told = CliRunner().invoke(app, shlex.split(text)[1:], env={"COLUMNS": "80"})
                assert told.exit_code == 0, f"{step.place}: {text}\n{told.output[-2000:]}"
            elif text.endswith(" &"):
                setting, words = text[:-2].split(" gplan ")
                command = [sys.executable, "-m", "gplan_jax.cli.main", *shlex.split(words)]
                known = os.environ | dict([setting.split("=")])
                log = servers.enter_context(Path("server.log").open("wb"))
                server = subprocess.Popen([*command, "--port", port], env=known, stderr=log)
                servers.callback(server.wait, timeout=60)
                servers.callback(server.terminate)
            else:
                done = subprocess.run(
                    ["bash", "-c", text], capture_output=True, text=True, timeout=300
                )
                assert done.returncode == 0, f"{step.place}: {text}\n{done.stdout}{done.stderr}"
                said = done.stdout
        if "served" in guides:
            assert json.loads(said)["model"] == "picd/model"  # rolled back
