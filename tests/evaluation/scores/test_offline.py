"""Scores of a run: identities, the same figures from the file alone, floors, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gplan_jax.data.tasks.gsisr_task import MODEL_MEASURES
from gplan_jax.evaluation.scores import offline
from gplan_jax.evaluation.scores.offline import (
    FLOOR_MEASURES,
    METRICS,
    PREDICTIONS,
    evaluate,
    score_file,
)
from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.files import read_json, read_jsonl, write_jsonl
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan, score_prediction
from gplan_jax.reasoning import GSISR_LATENTS

LIBRARY = IntentLibrary.load()
WEATHER, REMINDER, CARD = ({"工具名称": f"tool_{n}"} for n in (9, 8, 6))
RIDE = {"工具名称": "tool_1", "起始位置": "当前位置", "终点位置": "订单目的地"}
FOOD = {"工具名称": "tool_5", "起始位置": "当前位置", "空间范围": "附近", "tag": "美食"}
PLANS = ([RIDE, FOOD, WEATHER], [CARD, REMINDER, WEATHER, FOOD], [WEATHER, REMINDER, CARD])


def latent_answer(plan: list[dict[str, str]]) -> str:
    tokens = GSISR_LATENTS.tokens[: 3 * (2 + len(plan))]
    return f"<THOUGHT>{''.join(tokens)}</THOUGHT>{canonical_plan(plan)}"


def sample(number: int, plan: list[dict[str, str]] | None, **context: str) -> Sample:
    label = canonical_plan(plan) if plan else ""
    now = "2026-01-05 08:00:00"
    known = {"id": f"user{number}", "currenttime": now, "raw_labels": label}
    return Sample.from_context({**known, **context})


TEST = [sample(n, plan, trigger_1="酒店") for n, plan in enumerate(PLANS)]
TRAIN = [sample(n, plan, trigger_1="加油") for n, plan in enumerate((*PLANS, PLANS[0]), start=10)]


def without_run(folder: Path) -> dict[str, Any]:
    metrics = read_json(folder / METRICS)
    del metrics["run"]
    return metrics


def test_perfect_answers_score_one_everywhere(tmp_path: Path) -> None:
    texts = [latent_answer(plan) for plan in PLANS]
    metrics = evaluate(TEST, texts, None, LIBRARY, tmp_path / "out")
    assert metrics["model"] == dict.fromkeys(MODEL_MEASURES, 1.0)
    assert metrics["latent_failures"] == metrics["violations"] == {}
    assert (metrics["rows"], metrics["ids"]) == (3, 3)
    assert metrics["intervals"]["model"]["acc1"][1] == 1.0
    assert metrics["intervals"]["model"]["nes"] == [1.0, 1.0]


def test_empty_answers_score_zero_everywhere(tmp_path: Path) -> None:
    metrics = evaluate(TEST, [""] * 3, None, LIBRARY, tmp_path / "out")
    assert metrics["model"] == dict.fromkeys(MODEL_MEASURES, 0.0)
    assert metrics["latent_failures"] == {"block": 3}
    assert metrics["violations"] == {"format/not_json": 3}
    assert [row["plan"] for row in read_jsonl(tmp_path / "out" / PREDICTIONS)] == [[], [], []]


@pytest.mark.parametrize("train", [None, TRAIN])
@settings(max_examples=15)
@given(data=st.data())
def test_the_file_alone_gives_the_same_figures(
    train: list[Sample] | None, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts = []
    for plan in PLANS:
        answer = latent_answer(data.draw(st.sampled_from(PLANS)) or plan)
        cut = data.draw(st.integers(0, len(answer)))
        texts.append(answer[:cut] + data.draw(st.text()) + answer[data.draw(st.integers(cut)) :])
    out = tmp_path_factory.mktemp("run") / "out"
    metrics = evaluate(TEST, texts, train, LIBRARY, out)
    assert metrics == score_file(out / PREDICTIONS, LIBRARY) == without_run(out)


def test_scores_in_the_file_are_not_believed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    metrics = evaluate(TEST, ["", *map(latent_answer, PLANS[1:])], TRAIN, LIBRARY, out)
    rows = list(read_jsonl(out / PREDICTIONS))
    for row in rows:
        row["scores"] = dict.fromkeys(row["scores"], 1.0)
        row["plan"] = row["label_plan"]
    write_jsonl(tmp_path / "forged.jsonl", rows)
    assert score_file(tmp_path / "forged.jsonl", LIBRARY) == metrics


def test_means_and_rows_agree_with_scores_computed_one_by_one(tmp_path: Path) -> None:
    texts = [canonical_plan([RIDE, RIDE, FOOD]), latent_answer(PLANS[2]), "no plan"]
    metrics = evaluate(TEST, texts, None, LIBRARY, tmp_path / "out")
    scores = [score_prediction(t, s.raw_labels) for t, s in zip(texts, TEST, strict=True)]
    rows = list(read_jsonl(tmp_path / "out" / PREDICTIONS))
    for measure in ("acc1", "ndcg3", "nes", "ndcg3_unique", "ndcg3_positional", "exact"):
        values = [getattr(score, measure) for score in scores]
        assert metrics["model"][measure] == pytest.approx(mean(values), abs=1e-15)
        assert [row["scores"][measure] for row in rows] == values
    assert [row["id"] for row in rows] == ["user0", "user1", "user2"]
    assert rows[0]["violations"] == [
        {"tier": "logic", "code": "repeated_intent"},
        {"tier": "logic", "code": "exclusive_group"},
    ]
    assert metrics["model"]["filter_pass_logic"] == pytest.approx(1 / 3)
    assert metrics["model"]["filter_pass_schema"] == pytest.approx(2 / 3)
    assert metrics["model"]["filter_pass_format"] == pytest.approx(2 / 3)
    assert metrics["latent_failures"] == {"block": 2}
    assert rows[1]["latent_failure"] is None


def test_floors_stand_beside_the_model_and_learn_from_training_rows_only(tmp_path: Path) -> None:
    metrics = evaluate(TEST, [""] * 3, TRAIN, LIBRARY, tmp_path / "out")
    floor = metrics["floors"]["majority_first_intent"]
    # Two of four training plans begin with the ride, as one of the three test plans does.
    assert floor["acc1"] == pytest.approx(1 / 3)
    assert set(floor) == set(FLOOR_MEASURES)
    assert metrics["floors_left_out"] is None
    assert {"majority_first_intent", "popularity_list", "trigger_table"} == set(metrics["floors"])


def test_without_training_rows_the_floors_are_left_out_with_the_reason(tmp_path: Path) -> None:
    metrics = evaluate(TEST, [""] * 3, None, LIBRARY, tmp_path / "out")
    assert metrics["floors"] == {}
    assert "no training rows" in metrics["floors_left_out"]


def test_the_run_records_what_it_was_made_on(tmp_path: Path) -> None:
    train = [*TRAIN, sample(0, PLANS[1])]
    evaluate(TEST, [""] * 3, train, LIBRARY, tmp_path / "out", run={"model": "a model"})
    run = read_json(tmp_path / "out" / METRICS)["run"]
    assert run == {"model": "a model", "train_rows": 5, "ids_also_in_training": 1}


def test_an_earlier_run_is_never_overwritten(tmp_path: Path) -> None:
    evaluate(TEST, [""] * 3, None, LIBRARY, tmp_path / "out")
    before = (tmp_path / "out" / METRICS).read_bytes()
    with pytest.raises(GplanError, match="never overwritten"):
        evaluate(TEST, list(map(latent_answer, PLANS)), None, LIBRARY, tmp_path / "out")
    assert (tmp_path / "out" / METRICS).read_bytes() == before


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(offline, "write_json", full_disk)
    with pytest.raises(OSError, match="No space"):
        evaluate(TEST, [""] * 3, None, LIBRARY, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("samples", "texts", "train", "words"),
    [
        ([], [], None, "no rows to evaluate"),
        (TEST, [""], None, "1 answers for 3 rows"),
        ([TEST[0], sample(7, None)], ["", ""], None, "Row 2 .*user7.* no plan"),
        (TEST, [""] * 3, [sample(7, None)], "nothing to fit"),
        (TEST, [""] * 3, [], "nothing to fit"),
        (TEST, [""] * 3, [*TRAIN, TEST[1]], "user1.* split the data by id"),
    ],
)
def test_rows_that_cannot_be_evaluated_are_refused(
    samples: list[Sample],
    texts: list[str],
    train: list[Sample] | None,
    words: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(GplanError, match=words):
        evaluate(samples, texts, train, LIBRARY, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("second", "column"),
    [
        ([], None),
        ({"id": "u", "label": canonical_plan(PLANS[0])}, "text"),
        ({"id": 7, "text": "", "label": canonical_plan(PLANS[0])}, "id"),
        ({"id": "u", "text": "", "label": "no plan"}, "label"),
        ({"id": "u", "text": "", "label": canonical_plan(PLANS[0]), "floors": [1]}, "floors"),
    ],
)
def test_a_faulty_prediction_is_named_by_row_and_key(
    second: Any, column: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "predictions.jsonl"
    good = {"id": "u", "text": "", "label": canonical_plan(PLANS[0])}
    path.write_text(f"{json.dumps(good)}\n{json.dumps(second)}\n", encoding="utf-8")
    with pytest.raises(RowError) as error:
        score_file(path, LIBRARY)
    assert (error.value.file, error.value.row, error.value.column) == (path, 2, column)


def test_answers_of_another_program_need_only_id_text_and_label(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    rows = [{"id": s.id, "text": s.raw_labels, "label": s.raw_labels} for s in TEST]
    write_jsonl(path, rows)
    assert score_file(path, LIBRARY)["model"]["exact"] == 1.0
    write_jsonl(path, [rows[0], {**rows[1], "floors": {"list": ""}}])
    with pytest.raises(GplanError, match="other floors"):
        score_file(path, LIBRARY)
    write_jsonl(path, [])
    with pytest.raises(GplanError, match="no predictions"):
        score_file(path, LIBRARY)
