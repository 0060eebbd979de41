"""Two planners on the same rows: figures by hand, the same from every kind of side, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from gplan_jax.cli.main import app
from gplan_jax.evaluation.comparison.planner_pair import (
    COMPARISON,
    DIFFERING,
    compare_planners,
    pair_view,
)
from gplan_jax.evaluation.scores.offline import METRICS, PREDICTIONS, evaluate
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import file_digest, read_json, read_jsonl, write_json, write_jsonl
from gplan_jax.foundation.tables import plain_text
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan, read_samples, write_samples
from gplan_jax.inference.prediction.predict import MANIFEST

LIBRARY = IntentLibrary.load()
WEATHER, REMINDER, CARD = ({"工具名称": f"tool_{n}"} for n in (9, 8, 6))
RIGHT = [CARD, REMINDER, WEATHER]
OTHER = [WEATHER, REMINDER, CARD]
# Twelve rows of eight ids; which of them A and B answer rightly.
IDS = [f"u{n}" for n in (1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8)]
A_RIGHT = [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
B_RIGHT = [0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]
RUN = {"task": "gsisr", "library": "amap", "prompts": "p", "data": {"sha256": "d"}}


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    now, label = "2026-01-05 08:00:00", canonical_plan(RIGHT)
    return [
        Sample.from_context({"id": name, "currenttime": now, "raw_labels": label, "trigger_1": "a"})
        for name in IDS
    ]


def answers(right: Sequence[int]) -> list[str]:
    return [canonical_plan(RIGHT if hit else OTHER) for hit in right]


@pytest.fixture
def sides(tmp_path: Path, samples: list[Sample]) -> tuple[Path, Path]:
    for name, right in (("a", A_RIGHT), ("b", B_RIGHT)):
        out = tmp_path / name
        evaluate(samples, answers(right), None, LIBRARY, out, latents=None, run=RUN)
    return tmp_path / "a", tmp_path / "b"


def edit(path: Path, **changes: Any) -> None:
    """Changes the "run" of a metrics.json."""
    metrics = read_json(path / METRICS)
    metrics["run"] |= changes
    write_json(path / METRICS, metrics)


def test_differences_are_those_of_the_rows(sides: tuple[Path, Path]) -> None:
    result, differing = compare_planners(*sides)
    found = result["measures"]["acc1"]
    gaps = np.subtract(B_RIGHT, A_RIGHT)
    assert (found["A"], found["B"]) == (3 / 12, 7 / 12)
    assert found["difference"] == pytest.approx(gaps.mean())
    assert (found["rows_better"], found["rows_worse"]) == (5, 1)
    assert found["low"] <= found["difference"] <= found["high"]
    # Exact over the signs of ids: only those that differ count, u1 -1, u2 +1, u3 and u4 +2 each.
    by_id = [-1, 1, 2, 2]
    signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1)
    p = np.mean(np.abs(np.array(by_id) @ signs) >= sum(by_id))
    assert found["p"] == pytest.approx(p)
    assert not found["holds"]
    assert "latent_valid" not in result["measures"]
    assert (result["rows"], result["ids"], result["rows_that_differ"]) == (12, 8, 6)
    assert [row["row"] for row in differing] == [1, 4, 5, 6, 7, 8]
    assert differing[0]["A"]["plan"] == RIGHT


def test_the_other_way_round_every_difference_changes_its_sign(sides: tuple[Path, Path]) -> None:
    there, back = compare_planners(*sides)[0], compare_planners(*reversed(sides))[0]
    for measure, found in there["measures"].items():
        turned = back["measures"][measure]
        assert turned["difference"] == pytest.approx(-found["difference"])
        assert turned["p"] == pytest.approx(found["p"])
        counts = (turned["rows_better"], turned["rows_worse"])
        assert counts == (found["rows_worse"], found["rows_better"])


def test_texts_alone_and_what_predict_writes_give_the_same_figures(
    sides: tuple[Path, Path], tmp_path: Path, samples: list[Sample]
) -> None:
    wanted = compare_planners(*sides)[0]["measures"]
    bare, data = tmp_path / "bare.jsonl", tmp_path / "rows.csv"
    texts = list(read_jsonl(sides[1] / PREDICTIONS))
    write_jsonl(bare, ({k: row[k] for k in ("id", "text", "label")} for row in texts))
    found = compare_planners(sides[0], bare)[0]["measures"]
    assert found == wanted

    write_samples(data, samples)
    folder = tmp_path / "plans"
    records = [
        {"row": n, "id": row["id"], "plan": row["plan"], "latent_valid": None, "passed": True}
        | {"text": row["text"], "log_probability": None}
        for n, row in enumerate(texts, start=1)
    ]
    write_jsonl(folder / "part-0000000.jsonl", records)
    part = {"file": "part-0000000.jsonl", "answers": 12, "sha256": ""}
    about = {"run": {"data": file_digest(data)}, "shard": None, "devices": "cpu", "parts": [part]}
    write_json(folder / MANIFEST, about)
    edit(sides[0], data={"sha256": file_digest(data)})
    assert compare_planners(sides[0], folder, data=data)[0]["measures"] == wanted
    unlabelled = compare_planners(folder, folder)[0]
    assert not unlabelled["labelled"]
    assert list(unlabelled["measures"]) == ["filter_pass"]
    data.write_text(data.read_text() + "\n")
    with pytest.raises(GplanError, match="made from another file than"):
        compare_planners(sides[0], folder, data=data)


def test_a_table_of_80_columns_holds_every_figure(sides: tuple[Path, Path]) -> None:
    result, differing = compare_planners(*sides)
    text = plain_text(pair_view(result, differing), width=80)
    assert "…" not in text
    line = next(line for line in text.splitlines() if "Acc@1 %" in line).split()
    assert line[2:5] == ["25.0", "58.3", "+33.3"]
    assert line[-1] == "5/1"
    assert "These rows show no difference." in text
    assert "The plans differ in 6 of 12 rows." in " ".join(text.split())
    assert "row 8" not in text  # the first three are shown


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "text"}, "different tasks"),
        ({"library": "mine"}, "different services"),
        ({"prompts": "other"}, "different prompt templates or intent libraries"),
        ({"data": {"sha256": "e"}}, "different data files"),
    ],
)
def test_planners_that_were_asked_otherwise_are_refused(
    sides: tuple[Path, Path], changes: dict[str, Any], words: str
) -> None:
    edit(sides[1], **changes)
    with pytest.raises(GplanError, match=words):
        compare_planners(*sides)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("id", "u9", "Row 3 of .* has id u2, u9"),
        ("label", canonical_plan(OTHER), "Row 3 of .* has other labels"),
        ("row", 99, "answers row 3 .id u2. and .* does not: they hold 12 and 12 rows"),
    ],
)
def test_answers_to_other_rows_are_refused(
    sides: tuple[Path, Path], key: str, value: Any, words: str
) -> None:
    rows = list(read_jsonl(sides[1] / PREDICTIONS))
    rows[2][key] = value
    write_jsonl(sides[1] / PREDICTIONS, rows)
    with pytest.raises(GplanError, match=words):
        compare_planners(*sides)


def call(*arguments: Any) -> Result:
    texts = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, ["compare", *texts], env={"COLUMNS": "80"})


def test_two_models_plan_the_rows_and_leave_all_of_it_behind(
    tiny_model_dir: Path, world_file: Path, tmp_path: Path
) -> None:
    other, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(tiny_model_dir, other)
    free = ("--mode", "unconstrained", "--max-new-tokens", 8)
    rows = ("--data", world_file, "--limit", 3, *free)
    told = call(tiny_model_dir, other, *rows, "--out", out)
    assert told.exit_code == 0, told.output
    assert "The plans differ in 0 of 3 rows." in told.output
    assert f"The result is in {out}" in " ".join(told.output.split())
    ids = [sample.id for sample in read_samples(world_file)][:3]
    assert [row["id"] for row in read_jsonl(out / "B" / PREDICTIONS)] == ids
    assert read_jsonl(out / DIFFERING) is not None
    # What is there is compared again without planning, and says the same.
    again = call(out / "A", out / "B", "--json")
    figures = read_json(out / COMPARISON)["measures"]
    assert json.loads(again.stdout)["measures"] == figures
    assert all(found["difference"] == 0 for found in figures.values())
    assert all(found["detectable"] is None for found in figures.values())


def test_models_need_rows_and_one_prompt(tiny_model_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "model"
    shutil.copytree(tiny_model_dir, other)
    library = IntentLibrary.load().model_copy(update={"name": "mine"})
    library.save(other / "library.yaml")
    alone = call(tiny_model_dir, other)
    assert "is a model: name the rows that it shall plan, --data FILE" in str(alone.exception)
    apart = call(tiny_model_dir, other, "--data", tmp_path / "none.csv", "--service", "amap")
    assert "is a model of the service mine, not of amap" in str(apart.exception)
    empty = call(tmp_path, tmp_path)
    assert "holds no answers: name a model directory" in str(empty.exception)
