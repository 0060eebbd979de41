"""Spark: triggers over logs that no machine holds, and plans for a DataFrame of contexts.

`gplan triggers --engine spark` deals users into groups by a hash of their id. Each group, with all
events of its users, goes through the same search as a log on one machine, so the rows are the same;
they depend on the events alone, not on their order. A group has to fit in a Python worker's memory,
so there are many.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.foundation.errors import GplanError, load_extra
from gplan_jax.foundation.faulty_rows import FaultyRows, OnError
from gplan_jax.foundation.paths import is_cloud, local_path
from gplan_jax.gsisr.row_form import public_form
from gplan_jax.inference.engine.planner import Planner
from gplan_jax.inference.prediction import predict as prediction
from gplan_jax.synthesis.triggers.trigger_spec import TriggerSpec
from gplan_jax.synthesis.triggers.write_contexts import write_contexts

GROUP, LINE, REPORT = "gplan_group", "gplan_line", "gplan_report"
EVENTS_PER_GROUP = 200_000


def read_log(session: Any, log: str, delimiter: str = ",") -> Any:
    """A log as a DataFrame whose cells the search reads as it reads the file's own.

    ``log`` is what Spark's readers take: ``s3a://bucket/logs/*.parquet``. Cells of CSV stay texts
    and lines of JSONL stay lines, in one column; a Spark that guessed types would change ids.
    """
    kind = Path(log).suffix
    log = log if is_cloud(log) else str(local_path(log))
    with _named_errors("Name another --log or --users."):
        if kind == ".parquet":
            return session.read.parquet(log)
        if kind == ".csv":
            # As RFC 4180 has it, where Spark's defaults take a backslash for an escape and fill up
            # or cut rows of another length in silence.
            return session.read.csv(
                log, header=True, sep=delimiter, escape='"', multiLine=True, mode="FAILFAST"
            )
        if kind == ".jsonl":
            return session.read.text(log).withColumnRenamed("value", LINE)
    raise GplanError(
        f"{log}: unknown kind of log; its name ends in .csv, .jsonl or .parquet, as in "
        "'s3a://logs/*.parquet'."
    )


def trigger_rows(
    events: Any,
    spec: TriggerSpec,
    users: Any = None,
    *,
    groups: int | None = None,
    on_error: OnError = "raise",
    memory_limit: str = "2GB",
) -> Any:
    """DataFrame of the rows that triggers find, and of one report a group.

    Args:
        events: DataFrame with the columns that ``spec.log.columns`` names, or of ``read_log``.
        users: DataFrame with those of ``spec.users``; None where nothing is known about users.
        groups: of users; None takes as many as hold ``EVENTS_PER_GROUP`` events each.
        on_error, memory_limit: of each group's search; "skip" leaves faulty events out.

    Returns:
        The columns of a sample as texts; where ``gplan_report`` is not null, that of a group as
        JSON in place of a row.
    """
    functions = load_extra("pyspark.sql.functions", "spark", "triggers in Spark")
    if groups is None:
        groups = -(-events.count() // EVENTS_PER_GROUP) or 1
    zone = spec.log.time.zone

    def dealt(frame: Any, column: str) -> Any:
        """The frame with the group of each row's user."""
        if frame.columns == [LINE]:
            user = functions.get_json_object(LINE, f"$['{column}']")
        elif column in frame.columns:
            user = functions.col(_quoted(column)).cast("string")
        else:
            raise GplanError(
                f"The DataFrame has no column {column!r} for the user; it has "
                f"{', '.join(frame.columns[:12])}. Map it with --set log.columns.user=NAME."
            )
        # As the search reads ids: without white space around them, and 7.0 is 7.
        user = functions.regexp_replace(user, r"^[ \t\r\n]+|[ \t\r\n]+$|\.0+$", "")
        hashed = functions.pmod(functions.xxhash64(user), functions.lit(groups))
        return frame.withColumn(GROUP, functions.coalesce(hashed, functions.lit(0)))

    files = len(events.inputFiles())

    def found_in(events: Any, users: Any = None) -> Any:
        return search_group(
            events, users, spec, files=files, on_error=on_error, memory_limit=memory_limit
        )

    # Times without a zone in a Parquet log are local ones.
    events.sparkSession.conf.set("spark.sql.session.timeZone", zone)
    schema = ", ".join(f"{_quoted(name)} string" for name in (*_columns(spec), REPORT))
    grouped = dealt(events, spec.log.columns.user).groupBy(GROUP)
    if users is None:
        return grouped.applyInArrow(lambda table: found_in(table), schema)
    grouped_users = dealt(users, spec.users.user).groupBy(GROUP)
    return grouped.cogroup(grouped_users).applyInArrow(found_in, schema)


def search_group(
    events: Any, users: Any, spec: TriggerSpec, *, files: int, on_error: OnError, memory_limit: str
) -> Any:
    """pyarrow tables of a group's events and users -> its rows and its report, the last row.

    ``files`` are those of the whole log.
    """
    import pyarrow
    from pyarrow import parquet

    columns = _columns(spec)
    if not events.num_rows:  # Users of whom no event is known.
        return pyarrow.table({name: pyarrow.array([], "string") for name in (*columns, REPORT)})
    # Without the progress of one search: there are thousands, side by side.
    with (
        tempfile.TemporaryDirectory() as name,
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        redirect_stderr(nowhere),
    ):
        folder = Path(name)
        log = _write(events, folder / "log")
        known = _write(users, folder / "users") if users is not None and users.num_rows else None
        faulty = FaultyRows(on_error, keep=20)
        out = folder / "rows.parquet"
        report = write_contexts(
            [log], out, spec, users=known, memory_limit=memory_limit, faulty=faulty
        )
        rows = parquet.read_table(out).select(columns).to_pydict()
    last = json.dumps(report.to_dict(spec) | {"files": files}, ensure_ascii=False)
    return pyarrow.table(
        {name: pyarrow.array([*rows[name], None], "string") for name in columns}
        | {REPORT: pyarrow.array([None] * report.total + [last], "string")}
    )


def write_rows(found: Any, out: str) -> dict[str, Any]:
    """Writes the rows as Parquet files in the directory ``out``; the sum of the groups' reports.

    Raises:
        GplanError: ``out`` is there already, or a group's search failed; the log's fault is named.
    """
    found = found.persist()  # It is read twice: for rows and reports.
    total: dict[str, Any] = {}
    with _named_errors("Name another --out."):
        rows = found.where(f"{REPORT} is null").drop(REPORT)
        rows.write.mode("errorifexists").parquet(out)
        reports = found.where(f"{REPORT} is not null").select(REPORT).toLocalIterator()
        for row in reports:
            total = added(total, json.loads(row[REPORT]))
    found.unpersist()
    return total


def added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two reports as one: counts add up, years are those of both, log and settings the same."""
    result: dict[str, Any] = {}
    for key in {**one, **other}:
        first, second = one.get(key), other.get(key)
        if key in ("spec", "files") or first is None or second is None:
            result[key] = second if first is None else first
        elif isinstance(first, dict):
            result[key] = added(first, second)
        elif isinstance(first, list):
            result[key] = sorted({*first, *second})
        elif isinstance(first, bool | str):
            result[key] = first
        else:
            result[key] = first + second
    return result


def plan_partitions(
    contexts: Any,
    model: str,
    *,
    on_error: OnError = "raise",
    part_rows: int = prediction.PART_ROWS,
    **options: Any,
) -> Any:
    """DataFrame of contexts -> one of their plans, with the columns that ``gplan predict`` writes.

    A Python worker loads the model once, and plans the rows of its partitions so many at a time.
    ``row`` numbers the rows of the whole DataFrame, without holes inside a partition. Columns of
    the model's service may lack but for the id; others are not looked at. This process and every
    worker must be able to read ``model``, and ``template`` and ``service`` of the options, which
    are those of ``Planner.load``; plans are drafted unless a ``mode`` is given.

    Raises:
        GplanError: there is no id. What is wrong with a row is told by whatever Spark is asked for.
    """
    functions = load_extra("pyspark.sql.functions", "spark", "planning in Spark")
    of_task = {name: options.get(name) for name in prediction.OF_TASK}
    form = GsisrTask.load(Path(model), **of_task).library.form
    names = [name for name in contexts.columns if name in form.columns]
    prediction.contexts_of(dict.fromkeys(names, ()), form=form)
    # Its own names, for ``row`` may be a column of the DataFrame.
    number = (functions.monotonically_increasing_id() + 1).alias(LINE)
    several = ("rank bigint", "exact boolean") if options.get("best") else ()
    schema = (
        "row bigint", "id string", *several, "plan string", "latent_valid boolean",
        "passed boolean", "text string", "log_probability double",
    )  # fmt: skip

    def plan(batches: Iterator[Any]) -> Iterator[Any]:
        planner = _planner(model, **options)
        for batch in batches:
            for start in range(0, batch.num_rows, part_rows):
                part = batch.slice(start, part_rows).to_pydict()
                rows = prediction.contexts_of(part, part[LINE][0], planner.library.rows)
                skips = on_error == "skip"
                records, _ = prediction.plan_rows(
                    planner, Path(model), rows, skips, on_row=lambda: None
                )
                yield from prediction.answer_table(planner, records).to_batches()

    return contexts.select(number, *map(_quoted, names)).mapInArrow(plan, ", ".join(schema))


def _columns(spec: TriggerSpec) -> list[str]:
    """Those of the rows that triggers write."""
    return list((spec.rows or public_form()).columns)


def _quoted(column: str) -> str:
    """A column's name as Spark takes it whatever stands in it."""
    return f"`{column.replace('`', '``')}`"


@functools.cache
def _planner(model: str, **options: Any) -> Planner:
    return prediction.load_planner(model, **options)


def spark_session() -> Any:
    """The session of ``spark-submit``; without one, a Spark on this machine's cores."""
    sql = load_extra("pyspark.sql", "spark", "triggers in Spark")
    errors = load_extra("pyspark.errors", "spark", "triggers in Spark")
    try:
        return sql.SparkSession.builder.appName("gplan triggers").getOrCreate()
    except (errors.PySparkException, OSError) as error:
        raise GplanError(
            f"Spark did not start: {str(error).splitlines()[0]}. It needs Java 17 or 21 on the "
            "PATH or in JAVA_HOME."
        ) from None


@contextmanager
def _named_errors(mend: str) -> Iterator[None]:
    """What Spark refuses, and what a search in one of its workers found wrong, as GplanError."""
    errors = load_extra("pyspark.errors", "spark", "triggers in Spark")
    try:
        yield
    except errors.AnalysisException as error:
        raise GplanError(f"{str(error).splitlines()[0]} {mend}") from None
    except errors.PythonException as error:
        lines = [line for line in str(error).splitlines() if "Error: " in line]
        raise GplanError(f"The search failed in a Spark worker: {lines[-1].strip()}") from None


def _write(table: Any, stem: Path) -> Path:
    """The table as a file that the search reads."""
    from pyarrow import parquet

    names: Sequence[str] = [name for name in table.column_names if name != GROUP]
    if names == [LINE]:
        path = stem.with_suffix(".jsonl")
        path.write_text("\n".join(table[LINE].to_pylist()) + "\n", encoding="utf-8")
        return path
    path = stem.with_suffix(".parquet")
    parquet.write_table(table.select(names), path)
    return path
