"""The model card: every fact from a record, and "unknown" for what no record holds."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from gplan_jax.evaluation.report.model_card import model_card
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import write_json
from gplan_jax.models import ModelRecord


@pytest.fixture
def model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """The model of a run of PICD on two rows, whose base came from the hub."""
    model = tmp_path / "runs" / "picd" / "model"
    shutil.copytree(tiny_model_dir, model)
    base = {"name": "Qwen/Qwen3-1.7B", "revision": "a" * 40, "license": "apache-2.0"}
    dataclasses.replace(ModelRecord.read(model), metadata={"base": base}).write(model)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n{}\n")
    report = {"rows": {"read": 5, "kept": 4}, "removed": {"share": 0.2}}
    write_json(
        rows.with_suffix(".report.json"), report | {"teacher": {"name": "big", "model": "Q"}}
    )
    settings = {
        "mode": "picd",
        "model": str(tmp_path / "base"),
        "data": {"train": str(rows)},
        "epochs": 12,
        "epochs_per_stage": 2,
        "optimizer": {"schedule": "calr", "learning_rate": 2e-3},
    }
    (model.parent / "config.yaml").write_text(yaml.safe_dump(settings))
    return model


def test_what_no_record_holds_is_unknown(tiny_model_dir: Path) -> None:
    card = model_card(tiny_model_dir)
    assert ModelCard(card).data.eval_results is None
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "transformers"
    for line in (
        "| base model | unknown |",
        "| licence of the base model | unknown",
        "Unknown: no run directory",
        "Unknown: no evaluation",
        "Unknown: no judgement",
        "Unknown: no measurement",
        "How good it is, is unknown",
    ):
        assert line in card
    assert "None" not in card and "Undefined" not in card


def test_a_card_tells_what_the_records_hold(model: Path, tmp_path: Path) -> None:
    scores = {"acc1": 0.5, "nes": 0.25}
    bounds = {"acc1": [0.4, 0.6], "nes": [0.2, 0.3]}
    metrics = {
        "rows": 1234,
        "ids": 99,
        "model": scores,
        "floors": {"trigger_table": scores},
        "intervals": {"model": bounds, "floors": {"trigger_table": bounds}},
        "run": {"model": str(model), "mode": "unconstrained", "data": {"file": "far/test.csv"}},
    }
    write_json(tmp_path / "test" / "metrics.json", metrics)
    figures = {"scored": 7, "means": {"overall": 4.5}, "intervals": {"overall": [4.0, 5.0]}}
    judged = {"sources": {"picd": {"judges": {"rules": figures}}}}
    write_json(tmp_path / "more" / "judge.json", judged)
    run = {"latency_ms": {"mean": 20.2, "p95": 30.1}, "answered": 9, "requests": 10}
    latency = {
        "ran_on": {"cpu": "Fast", "accelerator": None},
        "models": {"p": {"runs": {"5": run}}},
    }
    write_json(tmp_path / "more" / "latency.json", latency)
    card = model_card(model, [tmp_path / "test", tmp_path / "more"], "me/planner")
    header = yaml.safe_load(card.split("---")[1])
    assert header["base_model"] == "Qwen/Qwen3-1.7B" and header["license"] == "apache-2.0"
    for line in (
        f"| base model | Qwen/Qwen3-1.7B at {'a' * 40} |",
        "1. **picd** (run picd):\n   epochs 12;\n   schedule calr, learning_rate 0.002\n",
        "every 2 epoch(s)",
        "Rows: rows.jsonl, 2.",
        "Plans and reasoning come from: big (Q).",
        "4 kept of 5 rows, 20.0% of the answers removed",
        "On 1,234 rows of 99 users (test.csv), decoding: unconstrained.",
        "| **this model** | 0.500 [0.400, 0.600] | 0.250 [0.200, 0.300] |",
        "| trigger_table (a floor) | 0.500 [0.400, 0.600] |",
        "- rules on picd: overall 4.500 [4.000, 5.000] (7 plans scored)",
        "- p at 5 requests a second: mean 20, p95 30, 9 of 10 answered",
        "gplan serve --model me/planner",
    ):
        assert line in card, line
    # The hub reads the same scores, as its own classes do.
    read = ModelCard(card).data
    assert read.model_name == "planner"
    found = {(r.metric_type, r.metric_value, r.dataset_name) for r in read.eval_results}
    assert found == {("acc1", 0.5, "test.csv, 1,234 rows"), ("nes", 0.25, "test.csv, 1,234 rows")}
    assert str(tmp_path) not in card  # No paths of this machine.
    assert "Unknown: " not in card


def test_records_of_another_model_or_none_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(GplanError, match=r"holds no metrics\.json, judge\.json, latency\.json"):
        model_card(model, [tmp_path])
    write_json(tmp_path / "metrics.json", {"run": {"model": "runs/other/model"}})
    with pytest.raises(GplanError, match="is of runs/other/model, not of"):
        model_card(model, [tmp_path])
