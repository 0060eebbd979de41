"""Triggers in Spark, local[2]: the rows of one machine, from every kind of log."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Sample, Service, read_samples, write_samples
from gplan_jax.gsisr.row_form import RowForm
from gplan_jax.inference.prediction.predict import predict
from gplan_jax.integrations import spark
from gplan_jax.synthesis.triggers.example_log import write_example_log
from gplan_jax.synthesis.triggers.trigger_spec import TriggerSpec, load_triggers
from gplan_jax.synthesis.triggers.write_contexts import write_contexts
from gplan_jax.synthesis.world.data_world import simulate_service

pytest.importorskip("pyspark", reason="the extra spark is not installed")
pytest.importorskip("duckdb")
if shutil.which("java") is None:
    pytest.skip("Spark needs Java on the PATH", allow_module_level=True)

# A JVM and its Python workers take longer than all other tests of triggers.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def session() -> Iterator[Any]:
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    found = builder.config("spark.sql.shuffle.partitions", "2").getOrCreate()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example log, with ties, late events, doubled ones, and white space around ids."""
    directory = tmp_path_factory.mktemp("example") / "logs"
    write_example_log(directory, 40, 0)
    with (directory / "events.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    rng = random.Random(0)
    user, time = header.index("user_id"), header.index("event_time")
    rows += [list(row) for row in rng.sample(rows, 200)]
    for row in rng.sample(rows, 200):
        row[user] = f" {row[user]}\t"
    for row, other in zip(rng.sample(rows, 100), rng.sample(rows, 100), strict=True):
        row[time] = other[time]
    rng.shuffle(rows)
    with (directory / "odd.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    with (directory / "odd.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False) + "\n")
    return directory


@pytest.fixture(scope="module")
def spec(logs: Path) -> TriggerSpec:
    return load_triggers(logs / "triggers.yaml")


def rows_of(paths: Iterator[Path], form: RowForm | None = None) -> list[tuple[str, ...]]:
    return sorted(
        (sample.id, sample.currenttime, repr(sample))
        for path in paths
        for sample in read_samples(path, form=form)
    )


@pytest.mark.parametrize("log", ["events.csv", "odd.csv", "odd.jsonl", "odd.parquet"])
def test_rows_and_counts_are_those_of_one_machine(
    session: Any, logs: Path, spec: TriggerSpec, tmp_path: Path, log: str
) -> None:
    file, users = logs / log, logs / "users.csv"
    if log == "odd.parquet":
        frame = spark.read_log(session, str(logs / "odd.csv"))
        frame.coalesce(1).write.mode("overwrite").parquet(str(tmp_path / "parquet"))
        [file] = (tmp_path / "parquet").glob("*.parquet")
    one = write_contexts([file], tmp_path / "rows.csv", spec, users=users).to_dict(spec)
    found = spark.trigger_rows(
        spark.read_log(session, str(file)), spec, spark.read_log(session, str(users)), groups=5
    )
    counted = spark.write_rows(found, str(tmp_path / "rows"))
    assert one["rows"] > 50
    assert rows_of((tmp_path / "rows").glob("*.parquet")) == rows_of(iter([tmp_path / "rows.csv"]))
    assert counted == one


def test_rows_of_a_service_have_its_columns(
    session: Any, logs: Path, spec: TriggerSpec, tmp_path: Path
) -> None:
    form = Service.load("city_guide").form
    spec = spec.model_copy(update={"rows": form})
    write_contexts([logs / "events.csv"], tmp_path / "rows.csv", spec)
    found = spark.trigger_rows(spark.read_log(session, str(logs / "events.csv")), spec, groups=3)
    spark.write_rows(found, str(tmp_path / "rows"))
    one = rows_of(iter([tmp_path / "rows.csv"]), form)
    assert len(one) > 50 and rows_of((tmp_path / "rows").glob("*.parquet"), form) == one


def test_what_is_wrong_is_named(
    session: Any, logs: Path, spec: TriggerSpec, tmp_path: Path
) -> None:
    events = spark.read_log(session, str(logs / "events.csv"))
    with pytest.raises(GplanError, match="no column 'user_id' for the user"):
        spark.trigger_rows(events.drop("user_id"), spec)
    with pytest.raises(GplanError, match="unknown kind of log"):
        spark.read_log(session, "events.txt")
    with pytest.raises(GplanError, match=r"does not exist: .*nowhere.csv.* Name another --log"):
        spark.read_log(session, str(logs / "nowhere.csv"))
    from pyspark.sql import functions

    faulty = events.withColumn("event_time", functions.lit("soon"))
    with pytest.raises(GplanError, match="'soon' is no time"):
        spark.write_rows(spark.trigger_rows(faulty, spec, groups=2), str(tmp_path / "faulty"))
    left_out = spark.trigger_rows(faulty, spec, groups=2, on_error="skip")
    assert spark.write_rows(left_out, str(tmp_path / "skipped"))["faulty"] == {
        "time": events.count()
    }
    with pytest.raises(GplanError, match=r"already exists.*Name another --out"):
        spark.write_rows(left_out, str(tmp_path / "skipped"))


def test_plans_are_those_of_predict(
    session: Any, tiny_model_dir: Path, world_rows: list[Sample], tmp_path: Path
) -> None:
    """Of one partition to the last digit; of two, the texts, for other rows are drafted together.
    Ids stay whole, also such as a float would round, and columns of other names are let be."""
    import pandas

    samples = [dataclasses.replace(row, id=f"90071992547409{n}") for n, row in enumerate(
        world_rows[:12], start=80)]  # fmt: skip
    write_samples(tmp_path / "contexts.csv", samples)
    options = {"template": "compact_zh", "prompt_length": 192, "response": "plan", "batch_size": 4}
    predict(
        tiny_model_dir, tmp_path / "contexts.csv", tmp_path / "out", part_rows=4, output="parquet",
        **options,
    )  # fmt: skip
    expected = pandas.concat(map(pandas.read_parquet, sorted((tmp_path / "out").glob("*.parquet"))))
    frame = pandas.DataFrame([row.to_dict() for row in samples]).drop(columns=["profile_feat_1"])
    frame["profile_feat_1"] = [row.profile_feat_1 or None for row in samples]
    contexts = session.createDataFrame(frame.astype({"id": "int64"}).assign(row="x"))
    planned = spark.plan_partitions(
        contexts.coalesce(1), str(tiny_model_dir), part_rows=4, **options
    ).toPandas()
    assert planned.to_dict("records") == expected.to_dict("records")
    halves = spark.plan_partitions(contexts.repartition(2), str(tiny_model_dir), **options)
    texts = {row["id"]: row["text"] for row in halves.collect()}
    assert texts == dict(zip(expected["id"], expected["text"], strict=True))
    with pytest.raises(GplanError, match="no column id; it has"):
        spark.plan_partitions(contexts.drop("id"), str(tiny_model_dir), **options)


def test_contexts_of_a_service_are_read_by_its_columns(
    session: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    import pandas

    service, model = Service.load("city_guide"), tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    compact = service.template("compact")
    GsisrTask(compact, service.library, prompt_length=512, response="plan").save(model)
    rows = list(itertools.islice(simulate_service(service.library, 1), 6))
    write_samples(tmp_path / "contexts.csv", rows)
    predict(model, tmp_path / "contexts.csv", tmp_path / "out", part_rows=6, output="parquet")
    [part] = (tmp_path / "out").glob("*.parquet")
    frame = pandas.DataFrame([row.to_dict() for row in rows])
    assert service.form.names["id"] in frame and "profile_feat_1" not in frame
    planned = spark.plan_partitions(session.createDataFrame(frame).coalesce(1), str(model))
    assert planned.toPandas().to_dict("records") == pandas.read_parquet(part).to_dict("records")


def test_reports_add_up() -> None:
    one = {"rows": 1, "by": {"a": 1}, "years": [2025], "stopped": False, "spec": {"n": 1}}
    other = {"rows": 2, "by": {"a": 2, "b": 1}, "years": [2025, 2024], "stopped": False}
    assert spark.added(one, other) == {
        "rows": 3, "by": {"a": 3, "b": 1}, "years": [2024, 2025], "stopped": False, "spec": {"n": 1}
    }  # fmt: skip
    assert spark.added({}, one) == one
