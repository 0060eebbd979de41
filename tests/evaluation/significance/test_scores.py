"""From predictions to arms: the same scores as an evaluation, and rows that must agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.evaluation.scores.offline import FLOOR_MEASURES, score_text
from gplan_jax.evaluation.significance.scores import read_evaluations, read_run, score_arm
from gplan_jax.evaluation.significance.summary import summarize_arms
from gplan_jax.foundation import GplanError, RowError
from gplan_jax.gsisr import IntentLibrary, canonical_plan
from gplan_jax.gsisr.plan_rules import admissible_intents

LIBRARY = IntentLibrary.load()
INTENTS = admissible_intents(LIBRARY)


def text(*numbers: int) -> str:
    return canonical_plan([INTENTS[n] for n in numbers], LIBRARY)


LABELS = [text(0, 40, 60), text(100, 3, 70, 80), text(0, 41, 61)]
ANSWERS = [text(0, 40, 61), "no plan at all", text(0, 41, 61)]
IDS = ["u1", "u2", "u3"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run_rows() -> list[dict[str, Any]]:
    return [
        {
            "row": number,
            "id": identity,
            "label": label,
            "arms": {
                "table": {"constrained": [answer], "free": [answer]},
                "sasrec": {"constrained": [label, answer], "free": [answer, answer]},
            },
        }
        for number, (identity, label, answer) in enumerate(
            zip(IDS, LABELS, ANSWERS, strict=True), start=1
        )
    ]


def test_an_arms_scores_are_those_of_an_evaluation() -> None:
    arm = score_arm([ANSWERS, LABELS], LABELS, LIBRARY)
    assert set(arm.values) == set(FLOOR_MEASURES)
    for measure, values in arm.values.items():
        assert values.shape == (2, 3)
        expected = [
            score_text(answer, label, LIBRARY).values[measure]
            for answer, label in zip(ANSWERS, LABELS, strict=True)
        ]
        assert values[0].tolist() == expected
    assert arm.values["exact"][1].tolist() == [1, 1, 1]
    assert arm.values["acc1"][0].tolist() == [1, 0, 1]


def test_a_runs_arms_keep_their_order_and_seeds(tmp_path: Path) -> None:
    path = write(tmp_path / "predictions.jsonl", run_rows())
    arms, ids = read_run(path, LIBRARY)
    assert (list(arms), ids) == (["table", "sasrec"], IDS)
    assert arms["sasrec"].values["exact"].tolist() == [[1, 1, 1], [0, 0, 1]]
    free, _ = read_run(path, LIBRARY, mode="free")
    assert free["sasrec"].values["exact"].tolist() == [[0, 0, 1], [0, 0, 1]]
    summary = summarize_arms(arms, ids, reference="table")
    assert [c.second for c in summary.comparisons] == ["table"] * 3


def evaluation(answers: list[str], labels: list[str] = LABELS) -> list[dict[str, Any]]:
    return [
        {"id": identity, "text": answer, "label": label}
        for identity, answer, label in zip(IDS, answers, labels, strict=True)
    ]


def test_separate_evaluations_of_the_same_rows_become_arms(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", evaluation(ANSWERS))
    second = write(tmp_path / "b.jsonl", evaluation(LABELS))
    arms, ids = read_evaluations({"a": first, "b": second}, LIBRARY)
    assert ids == IDS
    assert [arms[n].values["acc1"].tolist() for n in "ab"] == [[[1, 0, 1]], [[1, 1, 1]]]


def test_evaluations_of_other_rows_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", evaluation(ANSWERS))
    other = write(tmp_path / "b.jsonl", evaluation(LABELS, [LABELS[0], LABELS[2], LABELS[1]]))
    short = write(tmp_path / "c.jsonl", evaluation(LABELS)[:2])
    with pytest.raises(RowError, match=r"b.jsonl, row 2.*another id or label"):
        read_evaluations({"a": first, "b": other}, LIBRARY)
    with pytest.raises(GplanError, match=r"c.jsonl has 2 rows and .*a.jsonl 3"):
        read_evaluations({"a": first, "c": short}, LIBRARY)
    with pytest.raises(GplanError, match="nothing to compare"):
        read_evaluations({}, LIBRARY)


def test_broken_runs_name_the_row(tmp_path: Path) -> None:
    rows = run_rows()
    rows[1]["arms"]["sasrec"]["constrained"] = [LABELS[1]]
    with pytest.raises(RowError, match=r"row 2.*other arms or seeds"):
        read_run(write(tmp_path / "seeds.jsonl", rows), LIBRARY)
    rows = run_rows()
    del rows[2]["label"]
    with pytest.raises(RowError, match=r"row 3.*'label'"):
        read_run(write(tmp_path / "label.jsonl", rows), LIBRARY)
    rows = run_rows()
    rows[0]["label"] = "no plan"
    with pytest.raises(GplanError, match="no plan to score against"):
        read_run(write(tmp_path / "plan.jsonl", rows), LIBRARY)
    with pytest.raises(GplanError, match="no predictions"):
        read_run(write(tmp_path / "empty.jsonl", []), LIBRARY)
    with pytest.raises(GplanError, match="mode is greedy"):
        read_run(write(tmp_path / "any.jsonl", run_rows()), LIBRARY, mode="greedy")


def test_an_answer_for_each_row_is_needed() -> None:
    with pytest.raises(GplanError, match="2 answers for 3 rows"):
        score_arm([ANSWERS[:2]], LABELS, LIBRARY)
