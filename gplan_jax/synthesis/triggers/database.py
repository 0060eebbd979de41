"""DuckDB, imported only where a log is read; its errors become ours."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.extras import load_extra
from gplan_jax.synthesis.triggers.sql import quoted

BATCH = 4096
MEND = "Mend the row, or leave faulty rows out with --on-error skip."


def connect(temporary: Path, memory_limit: str, zone: str) -> Any:
    """A connection that spills to ``temporary`` and writes times of ``zone``.

    Raises:
        GplanError: duckdb is not installed, or ``memory_limit`` is no amount of memory.
    """
    duckdb = load_extra("duckdb", "synthesis", "sorting logs")
    config = {"temp_directory": str(temporary), "memory_limit": memory_limit}
    try:
        connection = duckdb.connect(":memory:", config=config)
    except duckdb.Error as error:
        problem = f"DuckDB does not start with the memory limit {memory_limit!r}"
        raise GplanError(f"{problem}: {_gist(error)}. Write it as 500MB or 2GB.") from None
    connection.execute(f"SET TimeZone = {quoted(zone)}")
    connection.execute("SET enable_progress_bar = false")
    return connection


def fetch(connection: Any, query: str) -> Iterator[list[tuple[Any, ...]]]:
    """Yields the rows of a query in batches; they are never all in memory.

    Raises:
        GplanError: a file can't be read, or DuckDB ran out of memory.
    """
    duckdb = load_extra("duckdb", "synthesis", "sorting logs")
    try:
        result = connection.execute(query)
        while rows := result.fetchmany(BATCH):
            yield rows
    except duckdb.OutOfMemoryException as error:
        raise GplanError(
            f"DuckDB ran out of memory or disk: {_gist(error)}. Give it more memory "
            "(--memory-limit), or free some space beside the output."
        ) from None
    except duckdb.Error as error:
        raise GplanError(f"The log can't be read: {_gist(error)}. {MEND}") from None


def _gist(error: Exception) -> str:
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    kept = itertools.takewhile(lambda line: not line.startswith("Possible"), lines)
    return ": ".join(itertools.islice(kept, 3))
