"""Bad input through `gplan` itself: one message, a non-zero exit code, earlier results whole."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.cli import main as command_line
from gplan_jax.foundation.files import read_json, write_json
from gplan_jax.training.resume.checkpoints import RunCheckpoints

Gplan = Callable[..., tuple[int, str]]


@pytest.fixture
def gplan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Gplan:
    """Runs the command line; returns its exit code and what it said on stderr."""

    def call(*arguments: Any) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["gplan", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            command_line.main()
        return int(stop.value.code or 0), capsys.readouterr().err

    return call


@pytest.fixture
def config(tmp_path: Path, tiny_model_dir: Path, world_file: Path) -> Path:
    path = tmp_path / "run.yaml"
    write_json(  # JSON is YAML
        path,
        {
            "mode": "picd",
            "model": str(tiny_model_dir),
            "output": str(tmp_path / "run"),
            "epochs": 1,
            "batch_size": 8,
            "data": {"train": str(world_file), "template": "compact_zh"},
            "optimizer": {"schedule": "constant"},
        },
    )
    return path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train CONFIG output=gs://bucket/run", "output: gs://bucket/run: gs paths are neither"),
        ("train CONFIG data.train=s3://b/rows.csv", "data.train: s3://b/rows.csv: s3 paths"),
        ("train CONFIG model=$NO_SUCH/m", "model: $NO_SUCH/m: the variable $NO_SUCH is not set"),
        ("train CONFIG output=runs/lr[1e-3]", "holds '[', and what is saved under such a name"),
        ("train CONFIG seed=-1", "seed: Input should be greater than or equal to 0 (given: -1)"),
        ("convert HF --out s3://b/m", "s3:/b/m: s3 paths are neither read nor written here"),
        ("convert gs://b/hf --out m", "gs:/b/hf: gs paths are neither"),
        ("convert HF --out a[b]", "rename the directory, without any of [ ] * ?"),
        ("sensitivity --model a=gs://b/m --pairs p.jsonl --out o", "gs://b/m: gs paths"),
        ("triggers --log s3://b/*.csv --out rows.csv", "s3 paths are neither"),
        (
            "synthesize --service amap --teacher gs://b/t.yaml --rows 60 --out r.csv",
            "gs paths are neither",
        ),
    ],
)
def test_paths_that_can_be_nothing_are_refused_before_any_work(
    command: str,
    message: str,
    gplan: Gplan,
    config: Path,
    tiny_hf_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where = tmp_path / "here"
    where.mkdir()
    monkeypatch.chdir(where)
    words = [{"CONFIG": config, "HF": tiny_hf_dir}.get(word, word) for word in command.split()]
    code, said = gplan(*words)
    assert (code, message in said) == (2, True), said
    assert list(where.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        *("train CONFIG", "train CONFIG --resume", "convert HF --out RUN"),
        *("evaluate --model MODEL --data ROWS --out RUN", "synthesize --out RUN --rows 60"),
        *("judge --data ROWS --labels --out RUN", "quickstart --out RUN"),
    ],
)
def test_a_place_that_another_command_writes_is_refused(
    command: str,
    gplan: Gplan,
    config: Path,
    tiny_hf_dir: Path,
    tiny_model_dir: Path,
    world_file: Path,
    holder: Callable[[Path], subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    other = holder(run := tmp_path / "run")
    places = {"CONFIG": config, "HF": tiny_hf_dir, "MODEL": tiny_model_dir, "ROWS": world_file}
    words = [(places | {"RUN": run}).get(word, word) for word in command.split()]
    code, said = gplan(*words)
    assert code == 2
    assert f"{run} is being written by process {other.pid} on {os.uname().nodename}" in said
    assert not run.exists()


@pytest.fixture
def faulty(tmp_path: Path, world_file: Path) -> Callable[[int, str, Callable[[str], str]], Path]:
    """Writes the rows with one cell changed; rows count from 1."""

    def write(row: int, column: str, change: Callable[[str], str]) -> Path:
        with world_file.open(encoding="utf-8", newline="") as file:
            cells = list(csv.reader(file))
        at = cells[0].index(column)
        cells[row][at] = change(cells[row][at])
        path = tmp_path / "faulty.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(cells)
        return path

    return write


@pytest.mark.parametrize(
    ("column", "change", "said"),
    [
        ("raw_labels", lambda text: text[:-3], "column raw_labels: The plan is not valid JSON"),
        ("raw_labels", lambda text: text.replace("tool_", "tool_x"), "is not a tool"),
        ("raw_labels", lambda text: text.replace("},{", "},{},{", 1), "column raw_labels"),
        ("currenttime", lambda _: "yesterday", "currenttime of sample"),
        ("trigger_6", lambda _: "soon", "trigger_6 of sample"),
    ],
)
def test_faulty_rows_are_named_by_explain_train_and_evaluate(
    column: str,
    change: Callable[[str], str],
    said: str,
    faulty: Callable[..., Path],
    gplan: Gplan,
    config: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
) -> None:
    data = faulty(4, column, change)
    for arguments in (
        ["explain", "--data", data, "--out", tmp_path / "out.csv"],
        ["train", config, f"data.train={data}"],
        ["evaluate", "--model", tiny_model_dir, "--data", data, "--out", tmp_path / "scores"],
    ):
        code, error = gplan(*arguments)
        assert code == 2
        assert f"error: {data}, row 4" in error and said in error
        assert "--on-error skip" in error and "Traceback" not in error
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"run.yaml", "faulty.csv"}


def test_evaluate_counts_and_lists_the_rows_it_skips(
    faulty: Callable[..., Path], gplan: Gplan, tiny_model_dir: Path, tmp_path: Path
) -> None:
    data = faulty(1, "raw_labels", lambda text: text[:-3])
    code, error = gplan(
        *("evaluate", "--model", tiny_model_dir, "--data", data, "--out", tmp_path / "scores"),
        *("--template", "compact_zh", "--max-new-tokens", 1, "--limit", 2, "--on-error", "skip"),
        *("--mode", "unconstrained"),
    )
    assert code == 0, error
    assert "Skipped 1 faulty rows" in error and "row 1, column raw_labels" in error
    metrics = read_json(tmp_path / "scores" / "metrics.json")
    assert (metrics["rows"], metrics["run"]["rows_skipped"]) == (2, 1)


def test_a_run_that_fails_on_bad_input_leaves_its_directory_free(
    gplan: Gplan, config: Path, tmp_path: Path
) -> None:
    for override in ("model=nowhere", "data.max_length=60", "data.train=nowhere.csv"):
        code, error = gplan("train", config, override)
        assert (code, error.count("error:")) == (2, 1)
        assert not (tmp_path / "run" / "config.yaml").exists()
    code, error = gplan("train", config, "model=nowhere")
    assert "nowhere" in error  # and not that the directory is taken


def test_an_answer_without_room_for_its_prompt_is_found_before_training(
    gplan: Gplan, config: Path
) -> None:
    code, error = gplan("train", config, "data.max_length=60")
    assert code == 2
    assert "The answer of the row with id" in error and "data.max_length" in error


def test_evaluation_in_training_is_checked_before_training(
    gplan: Gplan, config: Path, world_file: Path, faulty: Callable[..., Path], tmp_path: Path
) -> None:
    unlabelled = faulty(2, "raw_labels", lambda _: "")
    for overrides, said in (
        ([f"data.test={unlabelled}"], "row 2, column raw_labels"),
        ([f"data.test={world_file}"], "training rows and test rows at once"),
    ):
        code, error = gplan("train", config, "evaluation.every_epochs=1", *overrides)
        assert code == 2 and said in error
        assert not (tmp_path / "run").exists()


def test_a_tokenizer_of_another_model_is_refused_everywhere(
    gplan: Gplan, config: Path, tiny_model_dir: Path, world_file: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    last = tokenizer["added_tokens"][-1]
    far = read_json(model / "config.json")["vocab_size"] - last["id"]
    tokenizer["added_tokens"] += [
        {**last, "id": last["id"] + n, "content": f"<extra_{n}>"} for n in range(1, far + 1)
    ]
    write_json(model / "tokenizer.json", tokenizer)
    for arguments in (
        ["train", config, f"model={model}"],
        ["evaluate", "--model", model, "--data", world_file, "--out", tmp_path / "scores"],
        ["plan", "--model", model, "--data", world_file, "--row", 1],
        ["export", model, "--out", tmp_path / "hf"],
    ):
        code, error = gplan(*arguments)
        assert code == 2 and "the tokenizer belongs to another checkpoint" in error


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("gplan.json", "[]"),
        ("gplan.json", "{}"),
        ("config.json", "[1]"),
        ("tokenizer.json", "{"),
        ("task.json", '{"prompt_length": "many"}'),
        ("library.yaml", "tools: ["),
    ],
)
def test_broken_files_of_a_model_directory_are_named(
    file: str, content: str, gplan: Gplan, tiny_model_dir: Path, world_file: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    (model / file).write_text(content, encoding="utf-8")
    code, error = gplan("plan", "--model", model, "--data", world_file, "--row", 1)
    assert code == 2 and f"error: {model / file}" in error


def test_a_constant_part_that_is_too_long_names_the_options(
    gplan: Gplan, tiny_model_dir: Path, world_file: Path
) -> None:
    code, error = gplan(
        *("plan", "--model", tiny_model_dir, "--data", world_file, "--row", 1),
        *("--template", "compact_zh", "--prompt-length", 8),
    )
    assert code == 2
    assert "only 8;" in error and "--prompt-length" in error


def test_files_where_directories_are_needed_and_the_reverse(
    gplan: Gplan, world_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder.csv").mkdir()
    for out, said in (
        (world_file / "out.csv", "a file stands where a directory is needed"),
        (tmp_path / "folder.csv", "is a directory; name a file"),
    ):
        code, error = gplan("explain", "--data", world_file, "--out", out)
        assert code != 0 and error.strip().endswith((said, f"{said}; name another path"))


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted; what was finished stays on disk"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "the disk is full"),
        (OSError(errno.EROFS, "Read-only", "/mnt/x"), 1, "/mnt/x may not be written"),
    ],
)
def test_what_stops_a_command_from_outside(
    raised: BaseException, code: int, said: str, gplan: Gplan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr("gplan_jax.synthesis.factory.synthesize.world_contexts", stop)
    assert gplan("synthesize", "--service", "amap", "--rows", 1, "--out", "rows.csv")[0] == code
    assert said in gplan("synthesize", "--service", "amap", "--rows", 1, "--out", "rows.csv")[1]


@pytest.mark.parametrize("when", ["save_checkpointables_async", "close"])
def test_a_full_disk_under_checkpoints_is_an_error_of_the_disk(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def save_checkpointables_async(self, *_: Any, **__: Any) -> None: ...

        def close(self) -> None: ...

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("UNAVAILABLE: write: No space left on device [tensorstore_spec='...']")

    monkeypatch.setattr(Full, when, fail)
    monkeypatch.setattr(
        "gplan_jax.training.resume.checkpoints.ocp.training.Checkpointer", lambda *_, **__: Full()
    )
    monkeypatch.setattr("gplan_jax.training.resume.checkpoints._plain", lambda state: state)
    with pytest.raises(OSError) as error, RunCheckpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save({}, {"step": 1})  # type: ignore[arg-type]
    assert error.value.errno == errno.ENOSPC
