"""A whole comparison with worker processes."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_arms

from gplan_jax.baselines.fitting.arms import Arms
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.evaluation.comparison import results
from gplan_jax.evaluation.comparison.compare import compare
from gplan_jax.evaluation.comparison.known_arms import known_arms
from gplan_jax.evaluation.comparison.setup import ComparisonSetup, rows_of_folds
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import write_json, write_jsonl
from gplan_jax.gsisr import IntentLibrary, Sample

LIBRARY = IntentLibrary.load()
FLOOR = "majority_first_intent"
ARMS = Arms({**toy_arms.NETWORKS, FLOOR: known_arms()[FLOOR]})
RETUNED = Arms({**ARMS.entries, "toy": dataclasses.replace(toy_arms.TOY, trials=({}, {"rank": 5}))})


def setup_of(world_file: Path, out: Path, *names: str) -> ComparisonSetup:
    rows = rows_of_folds(world_file, LIBRARY, 2)
    return ComparisonSetup(rows, ARMS, names, {}, InputMode.FULL, LIBRARY, 2, 2, out)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(world_file: Path, tmp_path_factory: pytest.TempPathFactory) -> ComparisonSetup:
    """A comparison in which one arm fails and another one's worker dies."""
    out = tmp_path_factory.mktemp("comparison") / "out"
    setup = setup_of(world_file, out, "toy", "failing", "deadly", FLOOR)
    outcome = compare(setup, added={}, workers=2)
    failures = outcome.about.failures
    reasons = {(f.arm, f.fold): f.reason for f in failures}
    assert len(failures) == len(reasons), "each cause once"
    assert set(reasons) == {(arm, fold) for arm in ("failing", "deadly") for fold in (0, 1)}
    assert reasons["failing", 0] == "the toy broke; mend the toy"
    killed = "its process was killed; is the memory short? (workers.log has what it printed)"
    assert reasons["deadly", 0] == reasons["deadly", 1] == killed
    assert not multiprocessing.active_children()
    return setup


def test_arms_that_failed_are_named_and_the_others_are_there(finished: ComparisonSetup) -> None:
    about, summary = read(finished.out / results.COMPARISON), read(finished.out / results.SUMMARY)
    assert about["arms"] == ["toy", FLOOR] == list(summary["arms"]) and about["floors"] == [FLOOR]
    assert about["unfinished"] == ["failing", "deadly"]
    assert {(f["arm"], f["fold"], f["seed"]) for f in about["failures"]} >= {("failing", 1, 0)}
    assert about["hardware"].startswith("cpu") and summary["reference"] == FLOOR
    text = (finished.out / results.TABLE).read_text(encoding="utf-8")
    assert "Not in the table, as fits are missing: failing, deadly." in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 120
    log = (finished.out / "workers.log").read_text(encoding="utf-8")
    assert "GplanError: the toy broke" in log


def test_every_row_has_a_plan_of_every_seed(
    finished: ComparisonSetup, world_rows: list[Sample]
) -> None:
    lines = [
        json.loads(line)
        for line in (finished.out / results.PREDICTIONS).read_text(encoding="utf-8").splitlines()
    ]
    assert [line["row"] for line in lines] == list(range(1, len(world_rows) + 1))
    assert [line["id"] for line in lines] == [row.id for row in world_rows]
    for number, line in enumerate(lines):
        assert number in finished.rows.folds[line["fold"]].test
        assert set(line["facts"]) == {"order_type", "hour", "order_distance"}
        counts = {n: (len(t["constrained"]), len(t["free"])) for n, t in line["arms"].items()}
        assert counts == {"toy": (2, 2), FLOOR: (1, 1)}
    curves = read(finished.out / results.CURVES)
    # The chosen trials' curves: a toy's fit that stops early has five epochs.
    assert list(curves) == ["toy"] and len(curves["toy"]) == 2 * 5
    assert {point["seed"] for point in curves["toy"]} == {0}
    assert set(curves["toy"][0]) == {"fold", "seed", "epoch", "loss", "validation_loss"}


def test_the_means_are_those_of_the_files(finished: ComparisonSetup) -> None:
    """Acc@1 of the toy, counted from the folds' files by hand."""
    from gplan_jax.gsisr import parse_plan

    hits = []
    for path in finished.out.glob("arms/toy/fold_*/seed_*.json"):
        found = read(path)
        for row, text in zip(found["rows"], found["constrained"], strict=True):
            label = parse_plan(finished.rows.scored[row].raw_labels, LIBRARY)
            hits.append(parse_plan(text, LIBRARY)[:1] == label[:1])
    summary = read(finished.out / results.SUMMARY)
    assert len(hits) == 2 * len(finished.rows.scored)
    assert summary["arms"]["toy"]["acc1"]["mean"] == pytest.approx(sum(hits) / len(hits))
    assert 0 <= summary["beside"]["toy"]["free_filter_pass"] <= 1
    assert summary["beside"]["toy"]["filter_pass"] == 1.0


def test_a_second_run_fits_nothing_and_changes_nothing(
    finished: ComparisonSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the arms that failed; they stay unfinished, and nothing is started."""
    monkeypatch.setattr("gplan_jax.evaluation.comparison.compare.run_jobs", None)
    files = {
        name: (finished.out / name).read_bytes()
        for name in (
            results.PREDICTIONS,
            results.CURVES,
            results.SUMMARY,
            results.TABLE,
            results.MARKDOWN,
        )
    }
    again = dataclasses.replace(finished, names=("toy", FLOOR))
    assert not compare(again, added={}, workers=2).about.failures
    assert files == {name: (finished.out / name).read_bytes() for name in files}


def test_more_seeds_are_fitted_beside_those_that_are_there(
    finished: ComparisonSetup, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished.out, out)
    before = {path: path.read_bytes() for path in out.glob("arms/toy/**/*.json")}
    # An arm of which no fit succeeded may come with other settings.
    more = dataclasses.replace(finished, out=out, seeds=3, overrides={"failing": {"log": "x"}})
    outcome = compare(dataclasses.replace(more, names=("toy", "failing")), added={}, workers=1)
    assert outcome.about.seeds == 3 and outcome.about.arms == ["toy", FLOOR]
    assert before == {path: path.read_bytes() for path in before}
    assert set(out.glob("arms/toy/**/*.json")) - set(before) == set(out.glob("**/seed_2.json"))
    rows = (out / results.PREDICTIONS).read_text(encoding="utf-8").splitlines()
    assert {len(json.loads(row)["arms"]["toy"]["free"]) for row in rows} == {3}


def test_an_arm_predicted_elsewhere_stands_in_the_table(
    finished: ComparisonSetup, tmp_path: Path
) -> None:
    rows = [
        {"row": n, "id": s.id, "text": s.raw_labels, "label": s.raw_labels}
        for n, s in enumerate(finished.rows.scored, start=1)
    ]
    setup = dataclasses.replace(finished, names=("toy", FLOOR))
    write_jsonl(tmp_path / "oracle.jsonl", reversed(rows))
    outcome = compare(setup, added={"oracle": tmp_path / "oracle.jsonl"}, workers=2)
    assert outcome.summary is not None
    assert outcome.about.arms == ["toy", "oracle", FLOOR]
    assert outcome.summary.arms["oracle"]["acc1"].mean == 1.0
    held = [c for c in outcome.summary.comparisons if c.first == "oracle" and c.holds]
    assert {"acc1", "ndcg3"} <= {c.measure for c in held if c.second == FLOOR}
    assert "100.0▲" in (setup.out / results.TABLE).read_text(encoding="utf-8")
    compare(setup, added={}, workers=2)

    write_jsonl(tmp_path / "short.jsonl", rows[:-2])
    with pytest.raises(GplanError, match="no prediction for 2 of the 40"):
        compare(setup, added={"short": tmp_path / "short.jsonl"}, workers=2)
    rows[0]["id"] = "another"
    write_jsonl(tmp_path / "wrong.jsonl", rows)
    with pytest.raises(GplanError, match="row 1, column id: is 'another', but the data's row has"):
        compare(setup, added={"wrong": tmp_path / "wrong.jsonl"}, workers=2)
    with pytest.raises(GplanError, match="an arm of this name is known"):
        compare(setup, added={"toy": tmp_path / "wrong.jsonl"}, workers=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": 4, "mode": InputMode.HISTORY}, r"--mode full \(now history\), --trials 2"),
        ({"overrides": {"toy": {"log": "x"}}}, r"--set {} of toy \(now {'log': 'x'}\)"),
        ({"arms": RETUNED}, "made with other defaults or trials of toy"),
    ],
)
def test_a_directory_of_another_comparison_is_refused(
    finished: ComparisonSetup, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(GplanError, match=message):
        compare(dataclasses.replace(finished, **change), added={}, workers=1)


def test_a_directory_of_other_rows_or_of_something_else_is_refused(
    finished: ComparisonSetup, tmp_path: Path, world_file: Path
) -> None:
    other = tmp_path / "rows.csv"
    other.write_bytes(b"".join(world_file.read_bytes().splitlines(keepends=True)[:-1]))
    rows = rows_of_folds(other, LIBRARY, 2)
    with pytest.raises(GplanError, match="another --data"):
        compare(dataclasses.replace(finished, rows=rows), added={}, workers=1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear")
    with pytest.raises(GplanError, match="holds something else"):
        compare(dataclasses.replace(finished, out=tmp_path / "out"), added={}, workers=1)


def test_two_commands_do_not_share_a_directory(
    finished: ComparisonSetup, holder: Callable[[Path], subprocess.Popen[bytes]]
) -> None:
    other = holder(finished.out)
    with pytest.raises(GplanError, match=f"being written by process {other.pid} on "):
        compare(finished, added={}, workers=1)


def test_an_arm_with_fewer_trials_than_the_others_is_refused(
    finished: ComparisonSetup, tmp_path: Path
) -> None:
    other = dataclasses.replace(finished, arms=RETUNED, trials=3, out=tmp_path / "out")
    with pytest.raises(GplanError, match="toy declares 2 trials; compare with --trials 2"):
        compare(other, added={}, workers=1)
    assert not other.out.exists()


def test_results_of_the_release_before_are_read_and_go_on(
    finished: ComparisonSetup, tmp_path: Path
) -> None:
    """Its trials.json of an arm without trials lacks two keys, and keys may be new to us."""
    out = shutil.copytree(finished.out, tmp_path / "out")
    old = {"overrides": {}, "acc1": None, "nes": None, "epochs": None, "curve": []}
    for path in out.glob(f"arms/{FLOOR}/fold_*/trials.json"):
        write_json(path, {"trials": [old], "chosen": 0})
    about = read(out / results.COMPARISON)
    write_json(out / results.COMPARISON, {**about, "later": 1})
    again = dataclasses.replace(finished, out=out, names=("toy", FLOOR))
    assert compare(again, added={}, workers=2).about.arms == ["toy", FLOOR]
    assert results.read_results(out).group(FLOOR) == "floor"
