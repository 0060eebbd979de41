"""Rows and predictions: joined by order and id, and only ids and texts are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gplan_jax.evaluation.judge.sources import (
    plans_of_floors,
    plans_of_labels,
    plans_of_predictions,
    read_rows,
)
from gplan_jax.foundation import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import write_jsonl
from gplan_jax.gsisr import IntentLibrary, canonical_plan, write_samples
from gplan_jax.synthesis.world.simulation import simulate_rows
from tests.evaluation.judge.conftest import PLANS, PLANTED, prediction, rows, write_case

LIBRARY = IntentLibrary.load()


def test_a_candidate_is_a_context_and_a_plan_and_nothing_else(tmp_path: Path) -> None:
    samples = rows(4)
    data, predictions = write_case(tmp_path, samples)
    found = plans_of_predictions("m", predictions, read_rows(data, LIBRARY), LIBRARY)
    assert [c.plan for c in found] == [PLANS[n % 3] for n in range(4)]
    assert [c.sample for c in found] == [s.with_label("") for s in samples]
    assert [(c.source, c.row, c.filter_pass) for c in found] == [
        ("m", n, True) for n in range(1, 5)
    ]
    assert PLANTED not in repr([c.plan for c in found])


def test_only_id_and_text_are_needed(tmp_path: Path) -> None:
    samples = rows(2)
    data, _ = write_case(tmp_path, samples)
    bare = tmp_path / "bare.jsonl"
    texts = [canonical_plan(PLANS[0]), "no plan at all"]
    write_jsonl(bare, [{"id": s.id, "text": t} for s, t in zip(samples, texts, strict=True)])
    found = plans_of_predictions("b", bare, read_rows(data, LIBRARY), LIBRARY)
    assert [c.plan for c in found] == [PLANS[0], []]
    assert [c.filter_pass for c in found] == [True, False]


def test_what_does_not_belong_together_is_named(tmp_path: Path) -> None:
    samples = rows(4)
    data, predictions = write_case(tmp_path, samples)
    read = read_rows(data, LIBRARY)
    with pytest.raises(RowError, match=r"row 1, column id: is 'PLANTED_ID_0', but row 1 of the da"):
        plans_of_predictions("m", predictions, [*read[2:], *read[:2]], LIBRARY)
    with pytest.raises(GplanError, match=r"more predictions for 3 rows.*--limit"):
        plans_of_predictions("m", predictions, read[:3], LIBRARY)
    assert len(plans_of_predictions("m", predictions, read[:3], LIBRARY, cut=True)) == 3
    with pytest.raises(GplanError, match="only 4 predictions for 8 rows"):
        plans_of_predictions("m", predictions, read * 2, LIBRARY)
    predictions.write_text('{"id": "PLANTED_ID_0"}\n' + "[]\n" * 3)
    with pytest.raises(RowError, match="column text: is missing"):
        plans_of_predictions("m", predictions, read, LIBRARY)
    predictions.write_text("[]\n" * 4)
    with pytest.raises(RowError, match="row 1: is not a JSON object"):
        plans_of_predictions("m", predictions, read, LIBRARY)


def test_skipping_leaves_out_what_evaluate_leaves_out(tmp_path: Path) -> None:
    good = list(simulate_rows(4, seed=1))
    data = tmp_path / "rows.jsonl"
    faulty = [good[0].with_label("broken"), *good[1:]]
    write_samples(data, faulty)
    assert [s.id for s in read_rows(data, LIBRARY, faulty=FaultyRows("skip"))] == [
        s.id for s in good[1:]
    ]
    assert len(read_rows(data, LIBRARY)) == 4  # Labels are nothing to the judge.
    assert len(read_rows(data, LIBRARY, limit=2)) == 2
    lines = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    data.write_text("".join(json.dumps({**r, "currenttime": "noon"}) + "\n" for r in lines))
    with pytest.raises(RowError, match=r"row 1: currenttime .* 'noon'"):
        read_rows(data, LIBRARY)


def test_labels_and_floors_can_be_judged_as_a_calibration(tmp_path: Path) -> None:
    world = list(simulate_rows(30, seed=2))
    labels = plans_of_labels(world, LIBRARY)
    assert all(c.plan and c.source == "labels" and c.sample.raw_labels == "" for c in labels)
    with pytest.raises(GplanError, match=r"1 rows have no plan .*row 2"):
        plans_of_labels([world[0], world[1].with_label("")], LIBRARY)
    train = tmp_path / "train.csv"
    write_samples(train, world[:20])
    floors = plans_of_floors(world[20:], train, LIBRARY)
    assert list(floors) == ["majority_first_intent", "popularity_list", "trigger_table"]
    assert len({canonical_plan(c.plan) for c in floors["popularity_list"]}) == 1
    with pytest.raises(GplanError, match=r"1 rows of .* are also rows to judge"):
        plans_of_floors(world[19:], train, LIBRARY)


def test_the_planted_words_are_in_the_file() -> None:
    """The fixture is worth something only if the words are there to be read."""
    line = json.dumps(prediction(1, rows(1)[0], PLANS[0]))
    for place in ("ID", "REASONING", "PLAN", "LABEL", "SCORE", "FAILURE", "FLOOR"):
        assert f"{PLANTED}_{place}" in line
