"""Rows, folds and settings of a comparison."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy_arms

from gplan_jax.evaluation.comparison.setup import parse_overrides, rows_of_files, rows_of_folds
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample, write_samples

LIBRARY = IntentLibrary.load()


def test_no_id_is_in_two_parts_of_a_fold_and_every_row_is_scored_once(world_file: Path) -> None:
    rows = rows_of_folds(world_file, LIBRARY, 3)
    assert sorted(i for fold in rows.folds for i in fold.test) == list(range(len(rows.scored)))
    for part in rows.folds:
        sides = [part.train, part.validation, part.test]
        ids = [{rows.scored[i].id for i in side} for side in sides]
        assert all(ids) and not (ids[0] & ids[1] or ids[0] & ids[2] or ids[1] & ids[2])
        assert sum(map(len, sides)) == len(rows.scored)
        assert len(part.validation) < len(part.train) / 3


def test_rows_without_a_usable_plan_are_counted(tmp_path: Path, world_rows: list[Sample]) -> None:
    strange = '[{"tool": "teleport"}, {"tool": "teleport"}, {"tool": "teleport"}]'
    strange = strange.replace('tool"', f'{LIBRARY.tool_key}"')
    samples = list(world_rows)
    samples[3] = samples[3].with_label("")
    samples[5] = samples[5].with_label(strange)
    write_samples(tmp_path / "rows.csv", samples)
    rows = rows_of_folds(tmp_path / "rows.csv", LIBRARY, 2)
    assert rows.without_plan == (f"rows.csv, row 4 (id {samples[3].id}) has no plan",)
    [reason] = rows.not_learnt
    assert reason.startswith("rows.csv, row 6 ") and "teleport" in reason
    scored = {i for fold in rows.folds for i in fold.test}
    learnt = {i for part in rows.folds for i in (*part.train, *part.validation)}
    everything = set(range(len(samples)))
    assert everything - scored == {3} and everything - learnt == {3, 5}
    assert rows.data.rows == len(samples) - 1


def test_two_files_are_one_fold_and_share_no_id(tmp_path: Path, world_rows: list[Sample]) -> None:
    ids = sorted({row.id for row in world_rows})
    first = [row for row in world_rows if row.id in ids[: len(ids) // 2]]
    second = [row for row in world_rows if row.id not in ids[: len(ids) // 2]]
    write_samples(tmp_path / "train.csv", first)
    write_samples(tmp_path / "test.csv", second)
    rows = rows_of_files(tmp_path / "train.csv", tmp_path / "test.csv", LIBRARY)
    [part] = rows.folds
    assert part.test == tuple(range(len(second)))
    assert sorted(part.train + part.validation) == list(range(len(first)))
    assert rows.data.file.endswith("test.csv")
    assert rows.train_data and rows.train_data.rows == len(first)
    write_samples(tmp_path / "both.csv", [*first, second[0]])
    with pytest.raises(GplanError, match=second[0].id):
        rows_of_files(tmp_path / "both.csv", tmp_path / "test.csv", LIBRARY)


def test_one_id_cannot_be_split(tmp_path: Path, world_rows: list[Sample]) -> None:
    other = next(row for row in world_rows if row.id != world_rows[0].id)
    write_samples(tmp_path / "two.csv", [world_rows[0], other])
    with pytest.raises(GplanError, match="Fold 1 has usable training rows of 1 ids"):
        rows_of_folds(tmp_path / "two.csv", LIBRARY, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"toy": ["rnak=1"]}, "did you mean rank"),
        ({"toy": ["rank=many"]}, "rank: "),
        ({"peek": ["rank=1"]}, "peek takes no part"),
        ({"toy": ["rank=1"]}, "the trials of toy vary it"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(GplanError, match=message):
        parse_overrides(options, toy_arms.ARMS, ["toy"], 2)


def test_settings_lie_beneath_the_trials() -> None:
    assert parse_overrides({"toy": ["rank=7"]}, toy_arms.ARMS, ["toy"], 1) == {"toy": {"rank": 7}}
    found = parse_overrides({"toy": ["log=a b"]}, toy_arms.ARMS, ["toy"], 4)
    assert found == {"toy": {"log": "a b"}}
