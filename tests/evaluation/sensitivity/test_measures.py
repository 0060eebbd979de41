"""Context sensitivity: figures worked out by hand, identities, and the same figures from files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.data.tasks.gsisr_task import MODEL_MEASURES
from gplan_jax.evaluation.scores.intervals import bootstrap_interval
from gplan_jax.evaluation.scores.offline import METRICS, PREDICTIONS, score_file
from gplan_jax.evaluation.sensitivity import measures as sensitivity
from gplan_jax.evaluation.sensitivity.measures import (
    PAIRS,
    Measured,
    ask,
    difference,
    read_folder,
    score_pairs,
    summarize,
    write_folder,
)
from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.files import read_json, read_jsonl, write_jsonl
from gplan_jax.gsisr import ContextPair, IntentLibrary, Provenance, Sample, canonical_plan

LIBRARY = IntentLibrary.load()
A, B, C, D = (
    canonical_plan([{"工具名称": f"tool_{n}"} for n in tools])
    for tools in ((6, 8, 9), (9, 8, 3), (3, 6, 8), (8, 9, 3))
)
PLANS = (A, B, C, D)
NOON, NIGHT, HOME = "2026-03-04 12:00:00", "2026-03-04 22:30:00", "2026-03-04 12:00:01"


def context(user: str, time: str, plan: str) -> Sample:
    return Sample.from_context({"id": user, "currenttime": time, "raw_labels": plan})


def pair(
    user: str, first: str, second: str, *, time: str = NIGHT, perturbation: str = "hours_later"
) -> ContextPair:
    anchor = context(user, NOON, first)
    origin = Provenance(user, 1, perturbation, ("currenttime",), "rules", "passed")
    return ContextPair(f"{user}:{perturbation}", anchor, context(user, time, second), origin)


DIFFER = [
    pair("u1", A, B),
    pair("u1", A, C, time=HOME, perturbation="at_home"),
    pair("u2", A, B),
    pair("u3", A, B),
]
EQUAL = [
    pair("u4", C, C, perturbation="flag"),
    pair("u5", C, C, perturbation="flag"),
    pair("u6", C, C),
]
ANSWERS = {
    ("u1", NOON): A,
    ("u1", NIGHT): B,  # right in both
    ("u1", HOME): A,  # the anchor's plan again
    ("u2", NOON): B,
    ("u2", NIGHT): A,  # each other's plan
    ("u3", NOON): "no plan",
    ("u3", NIGHT): B,  # one unreadable, one right
    ("u4", NOON): D,
    ("u4", NIGHT): D,  # not the teacher's, but the same
    ("u5", NOON): C,
    ("u5", NIGHT): D,  # changed without reason
    ("u6", NOON): "",
    ("u6", NIGHT): "",  # the same nothing
}


def told(samples: Sequence[Sample]) -> list[str]:
    return [ANSWERS[sample.id, sample.currenttime] for sample in samples]


def measured(
    answer: Callable[[Sample], str],
    differ: Sequence[ContextPair] = DIFFER,
    equal: Sequence[ContextPair] = EQUAL,
) -> dict[str, Any]:
    return summarize(answered(answer, differ, equal))


def answered(
    answer: Callable[[Sample], str],
    differ: Sequence[ContextPair] = DIFFER,
    equal: Sequence[ContextPair] = EQUAL,
) -> Measured:
    return score_pairs(*ask(differ, equal, lambda samples: [answer(s) for s in samples]), LIBRARY)


def means(figures: dict[str, Any]) -> dict[str, float]:
    return {measure: figure["mean"] for measure, figure in figures.items()}


def write(folder: Path, **run: Any) -> dict[str, Any]:
    measured = score_pairs(*ask(DIFFER, EQUAL, told), LIBRARY)
    write_folder(measured, LIBRARY, folder, run)
    return summarize(measured)


def without_run(folder: Path) -> dict[str, Any]:
    metrics = read_json(folder / METRICS)
    del metrics["run"]
    return metrics


def test_figures_are_those_worked_out_by_hand() -> None:
    metrics = measured(lambda s: ANSWERS[s.id, s.currenttime])
    # By pair: u1 night, u1 home, u2, u3. An unreadable answer is as far from both plans: a tie.
    assert means(metrics["figures"]) == {
        "changed": (1 + 0 + 1 + 0) / 4,
        "right_context": (1 + 0.5 + 0 + 0.75) / 4,
        "exact_own": (1 + 0.5 + 0 + 0.5) / 4,
        "exact_other": (0 + 0.5 + 1 + 0) / 4,
        "stayed": pytest.approx((1 + 0 + 0) / 3),
    }
    assert metrics["pairs"] == {"differ": 4, "equal": 3}
    assert (metrics["contexts"], metrics["anchors"]) == (13, 6)
    assert {m: f["count"] for m, f in metrics["figures"].items()} == {
        "changed": 4,
        "right_context": 4,
        "exact_own": 4,
        "exact_other": 4,
        "stayed": 3,
    }


def test_figures_by_perturbation_are_those_of_its_pairs_alone() -> None:
    metrics = measured(lambda s: ANSWERS[s.id, s.currenttime])["by_perturbation"]
    assert list(metrics) == ["hours_later", "at_home", "flag"]
    assert metrics["hours_later"]["pairs"] == {"differ": 3, "equal": 1}
    assert metrics["at_home"]["pairs"] == {"differ": 1, "equal": 0}
    assert means(metrics["at_home"]["figures"]) == {
        "changed": 0,
        "right_context": 0.5,
        "exact_own": 0.5,
        "exact_other": 0.5,
    }
    assert means(metrics["flag"]["figures"]) == {"stayed": 0.5}
    assert means(metrics["hours_later"]["figures"])["right_context"] == pytest.approx(1.75 / 3)


def test_a_plan_nearer_to_its_own_context_counts_without_being_exact() -> None:
    ride = {"工具名称": "tool_1", "起始位置": "当前位置", "终点位置": "订单目的地"}
    own, other = canonical_plan([ride]), canonical_plan([{"工具名称": "tool_9"}])
    near = canonical_plan([{**ride, "终点位置": "家"}])  # same tool: NES 0.7 against 0
    found = means(measured(lambda s: near, [pair("u", own, other)], [])["figures"])
    assert found["right_context"] == 0.5  # right at noon, wrong at night
    answers = {NOON: near, NIGHT: other}
    found = means(
        measured(lambda s: answers[s.currenttime], [pair("u", own, other)], [])["figures"]
    )
    assert (found["right_context"], found["exact_own"], found["changed"]) == (1.0, 0.5, 1.0)


random_pairs = st.lists(
    st.tuples(st.integers(0, 4), st.permutations(PLANS), st.sampled_from(["near", "far"])),
    min_size=1,
    max_size=6,
    unique_by=lambda drawn: drawn[0],
)


@given(drawn=random_pairs, answers=st.lists(st.sampled_from((*PLANS, "none")), min_size=5))
def test_a_planner_that_ignores_the_change_is_right_half_the_time(
    drawn: list[Any], answers: list[str]
) -> None:
    differ = [pair(f"u{n}", p[0], p[1], perturbation=name) for n, p, name in drawn]
    equal = [pair(f"v{n}", p[0], p[0]) for n, p, _ in drawn]
    found = means(measured(lambda s: answers[int(s.id[1])], differ, equal)["figures"])
    assert (found["changed"], found["right_context"]) == (0, 0.5)
    assert found["exact_own"] == found["exact_other"]
    readable = [answers[n] != "none" for n, *_ in drawn]
    assert found["stayed"] == np.mean(readable)


@given(drawn=random_pairs)
def test_the_teacher_is_perfect_and_its_mirror_image_always_wrong(drawn: list[Any]) -> None:
    differ = [pair(f"u{n}", p[0], p[1], perturbation=name) for n, p, name in drawn]
    equal = [pair(f"v{n}", p[0], p[0]) for n, p, _ in drawn]
    own = {(s.id, s.currenttime): s.raw_labels for p in differ + equal for s in p.contexts}
    found = measured(lambda s: own[s.id, s.currenttime], differ, equal)
    assert means(found["figures"]) == {
        "changed": 1,
        "right_context": 1,
        "exact_own": 1,
        "exact_other": 0,
        "stayed": 1,
    }
    assert found["figures"]["right_context"]["interval"] == [1, 1]
    assert found["labels"]["exact"]["mean"] == 1
    other = {
        (s.id, s.currenttime): o.raw_labels
        for p in differ
        for s, o in (p.contexts, p.contexts[::-1])
    }
    mirrored = means(measured(lambda s: other[s.id, s.currenttime], differ, [])["figures"])
    assert mirrored == {"changed": 1, "right_context": 0, "exact_own": 0, "exact_other": 1}


def test_intervals_draw_whole_anchors() -> None:
    metrics = measured(lambda s: ANSWERS[s.id, s.currenttime])
    rows = np.array([[1, 1, 1, 0], [0, 0.5, 0.5, 0.5], [1, 0, 0, 1], [0, 0.75, 0.5, 0]])
    by_hand = bootstrap_interval(rows, ["u1", "u1", "u2", "u3"])
    for measure, bounds in zip(metrics["figures"], by_hand, strict=False):
        assert metrics["figures"][measure]["interval"] == bounds.tolist()
    # Ten more pairs of each user tell nothing new about other users: the interval stays as wide.
    more = [
        dataclasses.replace(p, key=f"{p.key}{n}", provenance=p.provenance)
        for p in DIFFER
        for n in range(10)
    ]
    again = measured(lambda s: ANSWERS[s.id, s.currenttime], more)
    for measure in ("changed", "right_context", "exact_own", "exact_other"):
        one, other = metrics["figures"][measure], again["figures"][measure]
        assert other["interval"] == pytest.approx(one["interval"])
        assert other["count"] == 10 * one["count"]


def test_a_difference_is_that_of_the_means_with_an_interval_of_its_own() -> None:
    base, other = answered(lambda s: A), answered(lambda s: ANSWERS[s.id, s.currenttime])
    found = difference(base, other)
    for part in ("figures", "labels"):
        one, two = means(summarize(base)[part]), means(summarize(other)[part])
        assert means(found[part]) == pytest.approx({m: two[m] - one[m] for m in one})
    # By pair, right context: 1, 0.5, 0, 0.75, each less the 0.5 of one plan for both contexts.
    rows = np.array([[0.5], [0.0], [-0.5], [0.25]])
    by_hand = bootstrap_interval(rows, ["u1", "u1", "u2", "u3"])[0]
    assert found["figures"]["right_context"]["interval"] == pytest.approx(by_hand.tolist())


def test_two_models_that_are_equally_wrong_differ_by_exactly_nothing() -> None:
    """Held beside one another, their intervals would be as wide as the pairs are unlike."""
    one = answered(lambda s: ANSWERS[s.id, s.currenttime])
    for figures in difference(one, one).values():
        assert all(f["mean"] == 0 and f["interval"] == [0, 0] for f in figures.values())


def test_models_on_other_pairs_or_labels_are_not_compared() -> None:
    one = answered(lambda s: A)
    relabelled = [pair("u1", A, C), *DIFFER[1:]]
    for other in (answered(lambda s: A, DIFFER[:3]), answered(lambda s: A, relabelled)):
        with pytest.raises(GplanError, match="different pairs"):
            difference(one, other)


def test_each_distinct_context_is_planned_once_and_no_label_is_shown() -> None:
    seen: list[Sample] = []

    def generate(samples: Sequence[Sample]) -> list[str]:
        seen.extend(samples)
        return told(samples)

    predictions, pairs = ask(DIFFER, EQUAL, generate)
    assert len(seen) == len(set(seen)) == 13  # seven pairs, two of which share their anchor
    assert {sample.raw_labels for sample in seen} == {""}
    assert pairs[0].rows[0] == pairs[1].rows[0]
    for asked, given_pair in zip(pairs, DIFFER + EQUAL, strict=True):
        for row, sample in zip(asked.rows, given_pair.contexts, strict=True):
            assert predictions[row].label == sample.raw_labels
            assert predictions[row].text == ANSWERS[sample.id, sample.currenttime]


def test_a_context_with_two_labels_is_planned_once_and_scored_against_each() -> None:
    calls: list[int] = []

    def generate(samples: Sequence[Sample]) -> list[str]:
        calls.append(len(samples))
        return [A] * len(samples)

    twice = [pair("u", A, B), pair("u", C, D, time=HOME)]
    predictions, pairs = ask(twice, [], generate)
    assert calls == [3]
    assert [predictions[p.rows[0]].label for p in pairs] == [A, C]


def test_label_metrics_are_those_that_gplan_score_finds(tmp_path: Path) -> None:
    metrics = write(tmp_path / "out")
    scored = score_file(tmp_path / "out" / PREDICTIONS, LIBRARY)
    assert means(metrics["labels"]) == scored["model"]
    assert set(metrics["labels"]) == set(MODEL_MEASURES)
    for measure in ("nes", "exact"):
        assert metrics["labels"][measure]["interval"] == scored["intervals"]["model"][measure]


def test_the_files_alone_give_the_same_figures(tmp_path: Path) -> None:
    out = tmp_path / "out"
    metrics = write(out, model="a model")
    assert metrics == summarize(read_folder(out, LIBRARY)) == without_run(out)
    assert read_json(out / METRICS)["run"] == {"model": "a model"}
    predictions, pairs = list(read_jsonl(out / PREDICTIONS)), list(read_jsonl(out / PAIRS))
    for row in predictions:
        row["scores"] = dict.fromkeys(row["scores"], 1.0)
    for row in pairs:
        row["scores"] = {}
    write_jsonl(out / PREDICTIONS, predictions)
    write_jsonl(out / PAIRS, pairs)
    assert summarize(read_folder(out, LIBRARY)) == metrics


def test_a_failed_write_leaves_nothing_and_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sensitivity, "write_json", full_disk)
        with pytest.raises(OSError, match="No space"):
            write(out)
    assert list(tmp_path.iterdir()) == []
    write(out)
    with pytest.raises(GplanError, match="never overwritten"):
        write(out)


def test_without_pairs_there_is_nothing_to_measure() -> None:
    with pytest.raises(GplanError, match="no context pairs"):
        measured(lambda s: A, [], [])


def test_figures_without_pairs_are_left_out() -> None:
    assert "stayed" not in measured(lambda s: A, DIFFER, [])["figures"]
    assert list(measured(lambda s: A, [], EQUAL)["figures"]) == ["stayed"]


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"pair": 3}, "pair"),
        ({"perturbation": None}, "perturbation"),
        ({"plans": "other"}, "plans"),
        ({"anchor": 0}, "anchor"),
        ({"anchor": True}, "anchor"),
        ({"counterfactual": 14}, "counterfactual"),
    ],
)
def test_a_pair_that_points_nowhere_is_named(
    change: dict[str, Any], column: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write(out)
    rows = list(read_jsonl(out / PAIRS))
    rows[1].update(change)
    write_jsonl(out / PAIRS, rows)
    with pytest.raises(RowError) as error:
        read_folder(out, LIBRARY)
    assert (error.value.file, error.value.row, error.value.column) == (out / PAIRS, 2, column)
