"""From files to scores, with a planner that is told its answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.evaluation.scores.model_evaluation import evaluate_model, find_sample, read_context
from gplan_jax.evaluation.scores.offline import METRICS, PREDICTIONS, score_file
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import read_json, read_jsonl, write_json
from gplan_jax.gsisr import IntentLibrary, Sample, Service, canonical_plan, write_samples
from gplan_jax.inference.engine.planner import Answer, Planner
from gplan_jax.reasoning import GSISR_LATENTS

PLAN = canonical_plan([{"工具名称": f"tool_{n}"} for n in (6, 8, 9)])
OTHER = canonical_plan([{"工具名称": f"tool_{n}"} for n in (9, 8, 3)])


class TellingPlanner:
    """Answers every row with PLAN; counts the rows it was asked about, and may be killed."""

    best = 0
    max_new_tokens = 512
    asked = 0
    most = sys.maxsize  # rows that it answers before it is killed

    def __init__(self, model: Path) -> None:
        self.task = GsisrTask.load(model)
        self.encoder = SimpleNamespace(latents=GSISR_LATENTS)
        self.model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=4096))

    @classmethod
    def load(cls, model: Path, **options: Any) -> TellingPlanner:
        return cls(model)

    def prompt(self, context: Sample, row: int) -> SimpleNamespace:
        return SimpleNamespace(ids=[0])

    def answers(
        self, prompts: Sequence[Any], context: Sample, *, on_row: Callable[[], None]
    ) -> list[list[Answer]]:
        for _ in prompts:
            if type(self).asked >= self.most:
                raise KeyboardInterrupt
            type(self).asked += 1
            on_row()
        return [[Answer(PLAN, None)] for _ in prompts]


@pytest.fixture(autouse=True)
def planner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Planner, "load", TellingPlanner.load)
    monkeypatch.setattr(ChatEncoder, "load", lambda model: SimpleNamespace(latents=GSISR_LATENTS))
    monkeypatch.setattr(TellingPlanner, "asked", 0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory that says no more than a model's task and service."""
    amap = Service.load("amap")
    GsisrTask(amap.template(), amap.library, prompt_length=99).save(tmp_path / "model")
    return tmp_path / "model"


def write_rows(path: Path, labels: Sequence[str]) -> Path:
    now = "2026-01-05 08:00:00"
    rows = [
        {"id": f"{path.stem}{n}", "currenttime": now, "raw_labels": label}
        for n, label in enumerate(labels, start=1)
    ]
    write_samples(path, [Sample.from_context(row) for row in rows])
    return path


def test_a_file_is_planned_scored_and_described(model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "test.csv", [PLAN, OTHER, OTHER])
    train = write_rows(tmp_path / "train.csv", [OTHER])
    metrics = evaluate_model(model, data, tmp_path / "out", train_data=train, limit=2, batch_size=4)
    assert metrics["rows"] == TellingPlanner.asked == 2
    assert metrics["model"]["acc1"] == 0.5
    assert metrics["floors"]["majority_first_intent"]["acc1"] == 0.5
    run = read_json(tmp_path / "out" / METRICS)["run"]
    assert (run["model"], run["batch_size"], run["limit"]) == (str(model), 4, 2)
    assert run["data"]["file"] == str(data)
    assert run["data"]["sha256"] != run["train_data"]["sha256"]
    assert {"jax", "python", "devices", "seconds_of_decoding"} <= set(run)


def test_after_a_stop_it_goes_on_and_faulty_rows_are_passed_over(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = write_rows(tmp_path / "test.csv", [PLAN, "", OTHER, PLAN, OTHER]), tmp_path / "out"
    settings: dict[str, Any] = {"part_rows": 2, "batch_size": 4}

    def evaluated() -> dict[str, Any]:
        return evaluate_model(model, data, out, faulty=FaultyRows("skip"), **settings)

    monkeypatch.setattr(TellingPlanner, "most", 2)
    with pytest.raises(KeyboardInterrupt):
        evaluated()
    assert not out.exists()
    monkeypatch.setattr(TellingPlanner, "most", sys.maxsize)
    metrics = evaluated()
    # Row 1, a part of its own; row 3 and the kill; rows 3 and 4 again, and row 5.
    assert TellingPlanner.asked == 1 + 1 + 2 + 1 and not Path(f"{out}.plans").exists()
    rows = list(read_jsonl(out / PREDICTIONS))
    assert [(row["id"], row["label"]) for row in rows] == [
        ("test1", PLAN), ("test3", OTHER), ("test4", PLAN), ("test5", OTHER)
    ]  # fmt: skip
    assert metrics["model"]["acc1"] == 0.5
    assert read_json(out / METRICS)["run"]["rows_skipped"] == 1


@pytest.mark.parametrize(
    ("response", "mode", "asked"),
    [
        ("latent", "unconstrained", True),
        ("latent", None, False),  # drafted: the grammar writes the latent prefix
        ("plan", "unconstrained", False),
        ("reasoning", None, False),
        (None, "unconstrained", True),  # an older model, which does not tell
    ],
)
def test_only_free_answers_with_latents_have_latent_valid(
    response: str | None, mode: Any, asked: bool, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    known = {"task": "gsisr", "prompt_length": 99, "response": response}
    write_json(model / "task.json", {k: v for k, v in known.items() if v})
    data = write_rows(tmp_path / "test.csv", [PLAN, OTHER])
    metrics = evaluate_model(model, data, out, mode=mode)
    assert ("latent_valid" in metrics["model"]) == asked
    assert metrics["latent_failures"] == ({"block": 2} if asked else {})
    rows = list(read_jsonl(out / PREDICTIONS))
    assert all(("latent_valid" in row["scores"]) == asked for row in rows)
    again = score_file(out / PREDICTIONS, IntentLibrary.load())
    assert again["model"] == metrics["model"]
    run = read_json(out / METRICS)["run"]
    assert run["mode"] == (mode or ("unconstrained" if response == "reasoning" else "drafted"))


@pytest.mark.parametrize("labels", [[PLAN, ""], ["no plan"]])
def test_a_row_without_a_label_is_found_before_the_model_starts(
    labels: list[str], model: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "test.csv", labels)
    with pytest.raises(GplanError, match=f"test.csv, row {len(labels)}, column raw_labels"):
        evaluate_model(model, data, tmp_path / "out")
    assert TellingPlanner.asked == 0


def test_an_earlier_result_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / METRICS).write_text("{}", encoding="utf-8")
    with pytest.raises(GplanError, match="never overwritten"):
        evaluate_model("model", tmp_path / "missing.csv", tmp_path / "out")


def test_a_row_is_found_by_its_number_or_its_id(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [PLAN, OTHER])
    assert find_sample(data, row=2) == find_sample(data, prompt_id="rows2")
    assert find_sample(data, row=1).raw_labels == PLAN
    with pytest.raises(GplanError, match="no row 3; its 2 rows"):
        find_sample(data, row=3)
    with pytest.raises(GplanError, match="no row with id 7"):
        find_sample(data, prompt_id="7")


def test_a_context_needs_only_the_columns_that_are_known(tmp_path: Path) -> None:
    path = tmp_path / "context.json"
    path.write_text(json.dumps({"id": "u", "trigger_1": "酒店"}), encoding="utf-8")
    sample = read_context(path)
    assert (sample.trigger_1, sample.current_city, sample.raw_labels) == ("酒店", "", "")


@pytest.mark.parametrize(
    ("content", "words"),
    [('{"triger_1": "x"}', "triger_1"), ('{"id": 3}', "texts"), ("[]", "object"), ("{", "JSON")],
)
def test_a_faulty_context_is_named(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "context.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(GplanError, match=words) as error:
        read_context(path)
    assert str(path) in str(error.value)
