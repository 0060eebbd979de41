"""Files of contexts planned in parts: resumed, sharded, on several devices: the same bytes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
import yaml

from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.data.tasks.text_task import TextTask
from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import read_json, read_jsonl, write_json, write_jsonl
from gplan_jax.gsisr import (
    IntentLibrary,
    PromptTemplate,
    Sample,
    check_plan,
    parse_plan,
    read_samples,
    write_samples,
)
from gplan_jax.inference.engine.planner import Planner
from gplan_jax.inference.prediction import predict as module
from gplan_jax.inference.prediction.predict import MANIFEST, Manifest, merge_shards, predict

ROWS, PART_ROWS = 14, 4
# One shape of prompts for all rows, which are longer.
OPTIONS: dict[str, Any] = {
    "template": "compact_zh",
    "prompt_length": 192,
    "response": "plan",
    "batch_size": 4,
    "part_rows": PART_ROWS,
}

Run = Callable[..., Manifest]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, world_rows: list[Sample]) -> Path:
    path = tmp_path_factory.mktemp("contexts") / "contexts.csv"
    write_samples(path, [row.with_label("") for row in world_rows[:ROWS]])
    return path


@pytest.fixture(scope="module")
def run(tiny_model_dir: Path, data: Path) -> Run:
    """predict with the options above, others as given."""

    def planned(out: Path, **options: Any) -> Manifest:
        given = {"model": tiny_model_dir, "data": data} | OPTIONS | options
        return predict(given.pop("model"), given.pop("data"), out, **given)

    return planned


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """What an undisturbed run writes."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    run(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def answers(folder: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(folder.glob("part-*.jsonl")) for row in read_jsonl(part)]


def test_every_row_is_planned_once_in_order_as_the_planner_plans_it(
    whole: Path, tiny_model_dir: Path, world_rows: list[Sample]
) -> None:
    assert sorted(contents(whole)) == [MANIFEST, *(f"part-{n:07}.jsonl" for n in range(4))]
    manifest = Manifest.read(whole)
    assert [part.answers for part in manifest.parts or ()] == [4, 4, 4, 2]
    found = answers(whole)
    assert [(row["row"], row["id"]) for row in found] == [
        (number, sample.id) for number, sample in enumerate(world_rows[:ROWS], start=1)
    ]
    given = {name: value for name, value in OPTIONS.items() if name != "part_rows"}
    planner = Planner.load(tiny_model_dir, mode="constrained", **given)
    assert [row["text"] for row in found] == planner.generate(world_rows[:ROWS])
    library = IntentLibrary.load()
    for row in found:
        assert row["plan"] == parse_plan(row["text"], library) != []
        assert row["passed"] and not check_plan(row["text"], library)
        assert row["latent_valid"] is None and row["log_probability"] < 0


def test_a_run_goes_on_where_it_was_killed(whole: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "part-0000001.jsonl").unlink()
    (out / "part-0000003.jsonl").unlink()
    (out / ".part-0000001.jsonl.tmp-abc.jsonl").write_text('{"half')
    write_json(out / MANIFEST, read_json(out / MANIFEST) | {"parts": None})
    run(out)
    assert contents(out) == contents(whole)


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on(
    whole: Path, tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--template=compact_zh", "--prompt-length=192", "--response=plan", "--batch-size=4"]
    command = [sys.executable, "-m", "gplan_jax.cli.main", "predict", f"--model={tiny_model_dir}"]
    command += [f"--data={data}", f"--out={out}", f"--part-rows={PART_ROWS}", *options]
    for parts in (1, 2):
        process = subprocess.Popen(command)
        while process.poll() is None and len(list(out.glob("part-*"))) < parts:
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    subprocess.run(command, check=True)
    expected = {name: text for name, text in contents(whole).items() if name != MANIFEST}
    assert {name: contents(out)[name] for name in expected} == expected
    assert [part.answers for part in Manifest.read(out).parts or ()] == [4, 4, 4, 2]


def test_a_finished_run_plans_nothing(
    whole: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Planner, "load", lambda *_, **__: pytest.fail("a model is loaded"))
    before = contents(whole)
    run(whole)
    # As the command gives its settings: all of them.
    run(whole, service=None, compute_dtype="float32", mode=None, max_new_tokens=512, seed=0, best=0)
    assert contents(whole) == before


def test_shards_together_are_the_whole(whole: Path, run: Run, tmp_path: Path) -> None:
    for number in (3, 1, 2):
        run(tmp_path / "shards" / str(number), shard=f"{number}/3")
    sizes = [len(answers(tmp_path / "shards" / str(n))) for n in (1, 2, 3)]
    assert sizes == [4, 4, 6]  # whole parts
    merge_shards(tmp_path / "shards", tmp_path / "all")
    assert contents(tmp_path / "all") == contents(whole)


def test_devices_share_the_parts(whole: Path, run: Run, tmp_path: Path) -> None:
    run(tmp_path / "out", devices=[jax.devices()[0]] * 3)
    assert contents(tmp_path / "out") == contents(whole)


def shard(folder: Path, number: int, of: int = 2, **changed: Any) -> Path:
    """A shard's directory, as if it had been planned."""
    path = folder / f"{number}-{len(list(folder.glob('*')))}"
    path.mkdir(parents=True)
    write_jsonl(path / f"part-{number - 1:07}.jsonl", [{"row": number}])
    values = {"run": {"model": "m", "data": "d"}, "shard": f"{number}/{of}", "devices": "cpu"}
    part = {"file": f"part-{number - 1:07}.jsonl", "answers": 1, "sha256": ""}
    part["sha256"] = module.files.file_digest(path / part["file"])
    write_json(path / MANIFEST, values | {"parts": [part]} | changed)
    return path


@pytest.mark.parametrize(
    ("shards", "fault"),
    [
        ([], "holds no shards"),
        ([{"number": 1}], "shards 1/2 to 2/2 and no others; at fault are 2/2"),
        ([{"number": 1}, {"number": 2}, {"number": 2}], "2/2 is there twice, .*2-1 and .*2-2"),
        ([{"number": 1}, {"number": 2, "of": 3}], "at fault are 2/2, 2/3"),
        ([{"number": 1}, {"number": 2, "run": {"model": "m", "data": "e"}}], "differ in data"),
        ([{"number": 1}, {"number": 2, "run": {"model": "n", "data": "d"}}], "differ in model"),
        ([{"number": 1}, {"number": 2, "parts": None}], "2-1 is not finished"),
        ([{"number": 1}, {"number": 2, "shard": None}], "2-1 is no shard"),
        ([{"number": 1}, {"number": 2, "shard": 7}], r"manifest\.json is not a valid config"),
    ],
)
def test_shards_that_do_not_make_a_whole(
    tmp_path: Path, shards: list[dict[str, Any]], fault: str
) -> None:
    (tmp_path / "shards").mkdir()
    for one in shards:
        shard(tmp_path / "shards", **one)
    with pytest.raises(GplanError, match=fault):
        merge_shards(tmp_path / "shards", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_part_that_was_changed_is_not_merged(tmp_path: Path) -> None:
    shard(tmp_path / "shards", 1)
    changed = shard(tmp_path / "shards", 2)
    (changed / "part-0000001.jsonl").write_text("{}\n")
    with pytest.raises(GplanError, match=r"part-0000001\.jsonl is missing or was changed"):
        merge_shards(tmp_path / "shards", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"seed": 1}, "differ in seed"),
        ({"prompt_length": 200}, "differ in prompt_length"),
        ({"shard": "1/2"}, "differ in shard"),
        ({"output": "parquet"}, "differ in output"),
        ({"shard": "3/2"}, "--shard 3/2 is none"),
        ({"shard": "a"}, "--shard a is none"),
    ],
)
def test_a_directory_of_other_settings(
    whole: Path, run: Run, options: dict[str, Any], fault: str
) -> None:
    before = contents(whole)
    with pytest.raises(GplanError, match=fault):
        run(whole, **options)
    assert contents(whole) == before


def test_other_inputs_and_places_are_refused(
    whole: Path, run: Run, tmp_path: Path, world_file: Path
) -> None:
    with pytest.raises(GplanError, match="differ in data, rows"):
        run(whole, data=world_file)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(GplanError, match="not empty"):
        run(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(GplanError, match="empty data set"):
        run(tmp_path / "out", data=tmp_path / "empty.jsonl")
    assert not (tmp_path / "out").exists()


def test_faulty_rows_stop_the_run_or_are_left_out(
    whole: Path, run: Run, tmp_path: Path, data: Path
) -> None:
    """The second row is half a line, the ninth, in another part, has a time that is none."""
    lines = data.read_text(encoding="utf-8-sig").splitlines()
    lines[2] = lines[2][:40]
    lines[9] = lines[9].replace(list(read_samples(data))[8].currenttime, "yesterday", 1)
    broken = tmp_path / "broken.csv"
    broken.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8")
    with pytest.raises(RowError, match=r"broken\.csv, row 2: .* cells under"):
        run(tmp_path / "out", data=broken)
    assert answers(tmp_path / "out") == []
    faulty = FaultyRows("skip")
    run(tmp_path / "out", data=broken, faulty=faulty)
    assert [error.row for error in faulty.errors] == [2, 9]
    found, expected = answers(tmp_path / "out"), answers(whole)
    left = [row for row in expected if row["row"] not in (2, 9)]
    assert [(row["row"], row["text"]) for row in found] == [(r["row"], r["text"]) for r in left]


def test_a_full_disk_leaves_whole_parts_only(
    whole: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def full(path: Path, rows: Any) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        write_jsonl(path, rows)

    monkeypatch.setattr(module.files, "write_jsonl", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "out")
    monkeypatch.undo()
    assert len(answers(tmp_path / "out")) == 2 * PART_ROWS
    run(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole)


def test_parquet_and_columns_that_lack(
    whole: Path, run: Run, tmp_path: Path, world_rows: list[Sample]
) -> None:
    """Columns that hold nothing may lack, as in requests to a server; plans are JSON text."""
    import pyarrow.parquet

    contexts = [
        {name: value for name, value in row.to_dict().items() if value and name != "raw_labels"}
        for row in world_rows[:ROWS]
    ]
    write_jsonl(tmp_path / "contexts.jsonl", contexts)
    run(tmp_path / "out", data=tmp_path / "contexts.jsonl", output="parquet")
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    rows = [row for part in parts for row in pyarrow.parquet.read_table(part).to_pylist()]
    assert [row | {"plan": json.loads(row["plan"])} for row in rows] == answers(whole)
    write_jsonl(tmp_path / "other.jsonl", [{"id": "1", "curenttime": "2026-01-01 10:00:00"}])
    with pytest.raises(RowError, match=r"unknown columns: curenttime \(meant currenttime\?\)"):
        run(tmp_path / "other", data=tmp_path / "other.jsonl")


def test_the_best_plans_of_each_row(run: Run, tmp_path: Path, tiny_model_dir: Path) -> None:
    library, model = IntentLibrary.load().model_dump(), tmp_path / "model"
    few = {name: library["tools"][name] for name in ("tool_6", "tool_8", "tool_9")}
    changed = {"tools": few, "exclusive_groups": [], "plan_length": {"minimum": 1, "maximum": 2}}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(library | changed), encoding="utf-8")
    shutil.copytree(tiny_model_dir, model)
    template = PromptTemplate.load(OPTIONS["template"])
    GsisrTask(template, IntentLibrary.load(tmp_path / "few.yaml")).save(model)
    run(tmp_path / "out", model=model, best=2, shard="1/4", template=None)
    found = answers(tmp_path / "out")
    assert [(row["row"], row["rank"]) for row in found] == [
        (number, rank) for number in range(1, 5) for rank in (1, 2)
    ]
    assert all(row["exact"] for row in found)
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert first["log_probability"] >= second["log_probability"]
        assert first["text"] != second["text"] and second["passed"]


@pytest.mark.slow
def test_rows_of_text(text_model_dir: Path, text_file: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(text_model_dir, model)
    TextTask(response="latent").save(model)
    rows = [{k: row[k] for k in ("id", "prompt")} for row in read_jsonl(text_file)]
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    options = {"max_new_tokens": 8, "part_rows": 5}
    for name in ("prompts", "labelled"):
        source = tmp_path / "prompts.jsonl" if name == "prompts" else text_file
        predict(model, source, tmp_path / name, **options)
    found = answers(tmp_path / "prompts")
    assert [(row["row"], row["id"]) for row in found] == [
        (number, row["id"]) for number, row in enumerate(rows, start=1)
    ]
    assert found == answers(tmp_path / "labelled")
    assert all(row["log_probability"] is None for row in found)
    planner = Planner.load(model, max_new_tokens=8)
    prompts = planner.task.read_contexts(tmp_path / "prompts.jsonl", FaultyRows())
    texts = planner.generate([context for _, _, context in prompts])
    assert [row["text"] for row in found] == texts
    long = [*rows[:3], {"id": "long", "prompt": "0 1 " * 40_000}]
    write_jsonl(tmp_path / "long.jsonl", long)
    with pytest.raises(RowError, match=r"long\.jsonl, row 4: its prompt has \d+ tokens"):
        predict(model, tmp_path / "long.jsonl", tmp_path / "out", **options)
