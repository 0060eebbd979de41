"""A fold's own world: weights are counts of its rows, and pooled answers find their rows."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import clean_world
import pytest

from gplan_jax.gsisr import IntentLibrary, canonical_plan, parse_plan
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from gplan_jax.synthesis.world.simulation import simulate_rows


def test_openings_weigh_as_often_as_the_rows_begin_so() -> None:
    rules = ServiceRules(IntentLibrary.load())
    rows = list(simulate_rows(30, seed=3))
    counted = clean_world.count_openings(rules, rows)
    prior = clean_world.PRIOR
    # A branch that is written once and used twice is weighed the same in both places.
    weights: dict[str, float] = {}
    for branch in clean_world._leaves(rules.file.openings):
        assert all(weight >= prior for weight in branch.open.values())
        weights[branch.model_dump_json()] = sum(branch.open.values()) - prior * len(branch.open)
    assert sum(weights.values()) == counted > 20
    # The row's own opening has a count above the prior, whatever branch it is in.
    for row in rows[:5]:
        plan = parse_plan(row.raw_labels, rules.library)
        openings = rules.openings(rules.tell(row))
        begun = [weight for opening, weight in openings if plan[: len(opening)] == opening]
        assert not begun or max(begun) >= 1


def test_answers_of_folds_are_pooled_by_the_rows_of_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = IntentLibrary.load()
    rows = list(simulate_rows(4, seed=1))
    plans = [canonical_plan(parse_plan(row.raw_labels, library), library) for row in rows]
    tests = [(1, 3), (0, 2)]
    results = {
        tmp_path / str(fold): SimpleNamespace(
            rows=[
                SimpleNamespace(
                    row=number + 1,
                    id=rows[row].id,
                    label=plans[row],
                    arms={"net": SimpleNamespace(free=[plans[row], ""], constrained=["", ""])},
                )
                for number, row in enumerate(test)
            ]
        )
        for fold, test in enumerate(tests)
    }
    monkeypatch.setattr(clean_world, "read_results", results.__getitem__)
    clean_world.pool(list(results), tests, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "net_0.jsonl").read_text().splitlines()]
    assert {line["row"]: line["text"] for line in lines} == dict(enumerate(plans, start=1))
    assert all(rows[line["row"] - 1].id == line["id"] for line in lines)
