"""Paid answers on disk: one SQLite file, in which an answer is safe before anybody sees it.

Workers on several machines, which can't share such a file, have one each, a shard of it:

NAME                        the cache, which nobody writes while they work
NAME.shards/WORKER.sqlite   what a worker has paid for; it finds the answers in NAME too
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from gplan_jax.chat.messages import ChatReply
from gplan_jax.foundation import GplanError

# "gpch": marks the file as ours (PRAGMA application_id); the version is that of the tables.
APPLICATION_ID = 0x67706368
VERSION = 1
LOCK_WAIT_S = 30.0

# answers: what can be asked for again. unusable: paid for, but no answer to keep (filtered, or a
# second copy that another process was given at the same moment); it counts in the ledger only.
TABLES = """
CREATE TABLE answers (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, finish_reason TEXT NOT NULL, model TEXT NOT NULL,
    prompt_tokens INTEGER, completion_tokens INTEGER, cost REAL, currency TEXT NOT NULL,
    attempts INTEGER NOT NULL, structured TEXT NOT NULL, answered_at TEXT NOT NULL
);
CREATE TABLE unusable (
    key TEXT NOT NULL, reason TEXT NOT NULL, model TEXT NOT NULL, prompt_tokens INTEGER,
    completion_tokens INTEGER, cost REAL, currency TEXT NOT NULL, answered_at TEXT NOT NULL
);
"""
READ = (
    "SELECT text, finish_reason, model, prompt_tokens, completion_tokens, attempts, structured, "
    "cost FROM answers WHERE key = ?"
)
KEEP = (
    "INSERT OR IGNORE INTO answers VALUES (:key, :text, :finish_reason, :model, :prompt_tokens, "
    ":completion_tokens, :cost, :currency, :attempts, :structured, :answered_at)"
)
WRITE_OFF = (
    "INSERT INTO unusable VALUES (:key, :reason, :model, :prompt_tokens, :completion_tokens, "
    ":cost, :currency, :answered_at)"
)
# What a shard has beyond the cache. Done again after a kill, it changes nothing. An answer that
# another worker was given to the same request is paid for too.
MERGE = (
    "INSERT INTO unusable SELECT key, 'another worker had the answer first', s.model, "
    "s.prompt_tokens, s.completion_tokens, s.cost, s.currency, s.answered_at FROM shard.answers s "
    "JOIN main.answers m USING (key) WHERE (s.text, s.answered_at) IS NOT (m.text, m.answered_at) "
    "EXCEPT SELECT * FROM main.unusable",
    "INSERT INTO unusable SELECT * FROM shard.unusable EXCEPT SELECT * FROM main.unusable",
    "INSERT OR IGNORE INTO answers SELECT * FROM shard.answers",
)
SHARDS = ".shards"
TOTALS = """
SELECT count(*), total(prompt_tokens), total(completion_tokens), total(cost),
       count(*) - count(prompt_tokens + completion_tokens),
       count(CASE WHEN cost IS NOT NULL AND currency != ? THEN 1 END)
FROM (SELECT prompt_tokens, completion_tokens, cost, currency FROM answers UNION ALL
      SELECT prompt_tokens, completion_tokens, cost, currency FROM unusable)
"""


class Totals(NamedTuple):
    """What the paid answers in a cache amount to."""

    answers: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    without_usage: int  # answers whose tokens the server didn't report


class _Entry(NamedTuple):
    reply: ChatReply
    unusable: str
    kept: asyncio.Future[ChatReply]


class Cache:
    """The answers in one file, made where it is missing; several processes may share it.

    Reads happen in the event loop's thread. Writes happen in a thread of their own, all answers
    that came during the last commit in the next one; each is on the disk (fsync) when ``keep``
    returns. While it is open, two more files stand beside it (-wal, -shm).
    """

    def __init__(self, path: Path, currency: str) -> None:
        self.path = self.whole = path  # This file, and where its answers come to be.
        self._currency = currency
        self._entries: list[_Entry] = []
        self._committing: asyncio.Task[None] | None = None
        self._writer = ThreadPoolExecutor(1, "chat-cache")
        with _naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write_connection = _open(path)
            self._read_connections = [_connect(path)]
            if path.parent.suffix == SHARDS:
                self.whole = Path(str(path.resolve().parent).removesuffix(SHARDS))
                if self.whole.exists():
                    self._read_connections.append(_connect(self.whole, read_only=True))

    def totals(self) -> Totals:
        """Sums over all answers, those of earlier runs and other processes included."""
        return totals_of(self.path, self._currency)

    def get(self, key: str) -> ChatReply | None:
        """The answer kept by ``key``, None where there is none."""
        with _naming(self.path):
            rows = (one.execute(READ, (key,)).fetchone() for one in self._read_connections)
            row = next(filter(None, rows), None)
        if row is None:
            return None
        text, finish_reason, model, prompt, completion, attempts, structured, cost = row
        return ChatReply(
            text, finish_reason, key, model, prompt, completion, True, attempts, structured, cost
        )

    async def keep(self, reply: ChatReply, *, unusable: str = "") -> ChatReply:
        """Commits a paid answer and returns it.

        Where another process was first with the same key, its answer is returned and this one
        written off: whoever asks gets the same answer. With ``unusable`` (the reason) only tokens
        and cost are kept.
        """
        kept: asyncio.Future[ChatReply] = asyncio.get_running_loop().create_future()
        self._entries.append(_Entry(reply, unusable, kept))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all())
        return await kept

    async def close(self) -> None:
        """Commits what is waiting, and lets go of the file."""
        if self._committing is not None:
            await self._committing
        self._writer.shutdown()
        for connection in (*self._read_connections, self._write_connection):
            connection.close()

    async def _commit_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._entries:
            entries, self._entries = self._entries, []
            try:
                replies = await loop.run_in_executor(self._writer, self._commit, entries)
            except Exception as error:
                for entry in entries:
                    if not entry.kept.done():
                        entry.kept.set_exception(error)
                continue
            for entry, reply in zip(entries, replies, strict=True):
                if not entry.kept.done():
                    entry.kept.set_result(reply)
        self._committing = None

    def _commit(self, entries: list[_Entry]) -> list[ChatReply]:
        connection = self._write_connection
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with _naming(self.path), connection:
            connection.execute("BEGIN IMMEDIATE")
            return [self._insert(entry, now) for entry in entries]

    def _insert(self, entry: _Entry, now: str) -> ChatReply:
        reply, reason, execute = entry.reply, entry.unusable, self._write_connection.execute
        values = asdict(reply) | {"currency": self._currency, "answered_at": now}
        if not reason:
            if execute(KEEP, values).rowcount:
                return reply
            reason = "another process had the answer first"
        execute(WRITE_OFF, values | {"reason": reason})
        row = execute(READ, (reply.key,)).fetchone()
        return reply if row is None else replace(reply, text=row[0], finish_reason=row[1])


def shard_of(cache: Path, worker: str) -> Path:
    """A worker's own file."""
    return cache.with_name(f"{cache.name}{SHARDS}") / f"{worker}.sqlite"


def totals_of(cache: Path, currency: str) -> Totals:
    """The totals of a cache that others may be reading, zeros where there is none."""
    if not cache.exists():
        return Totals(0, 0, 0, 0.0, 0)
    with _naming(cache), closing(_connect(cache, read_only=True)) as connection:
        row = connection.execute(TOTALS, (currency,)).fetchone()
    if row[5]:
        raise GplanError(
            f"{cache} holds costs in another currency than {currency}; keep one currency, or name "
            "another cache."
        )
    return Totals(row[0], int(row[1]), int(row[2]), row[3], row[4])


def merge_shards(cache: Path) -> None:
    """Puts what all shards hold into the cache, and removes them; no worker is at work then.

    GplanError where one of the files can't be used; what is merged by then stays so.
    """
    shards = sorted(shard_of(cache, "*").parent.glob("*.sqlite"))
    if not shards and not cache.exists():
        return
    with _naming(cache), closing(_open(cache)) as connection:
        for shard in shards:
            with _naming(shard):
                _open(shard).close()
                connection.execute("ATTACH ? AS shard", (str(shard),))
                with connection:
                    connection.execute("BEGIN IMMEDIATE")
                    for statement in MERGE:
                        connection.execute(statement)
                connection.execute("DETACH shard")
                for ending in ("", "-wal", "-shm"):
                    shard.with_name(shard.name + ending).unlink(missing_ok=True)
        # Without a log beside it, the file can be read where machines share a disk.
        connection.execute("PRAGMA journal_mode = DELETE")
    if shards:
        shards[0].parent.rmdir()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise GplanError(_explain(path, error)) from None


def _open(path: Path) -> sqlite3.Connection:
    """A connection to ``path`` with its tables made and checked."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        connection = _connect(path)
        try:
            _prepare(connection, path)
            return connection
        except sqlite3.OperationalError as error:
            connection.close()
            # Turning WAL on doesn't wait for the lock by itself.
            if not _is_locked(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        except BaseException:
            connection.close()
            raise


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    # Autocommit (isolation_level None): transactions are begun and ended explicitly.
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}",
        timeout=LOCK_WAIT_S,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
    )
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise GplanError(
            f"{path} lies where SQLite can't share a file between processes (journal mode {mode}); "
            "put the cache on a local disk."
        )
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        owner = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if owner == 0 and version == 0 and tables == 0:
            for statement in TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        elif owner != APPLICATION_ID:
            raise GplanError(
                f"{path} is the SQLite file of another program; name another file for the cache."
            )
        elif version != VERSION:
            raise GplanError(
                f"{path} is an answer cache of version {version}, this program reads {VERSION}; "
                "use the version of gplan-jax that wrote it, or name another file."
            )


def _is_locked(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _explain(path: Path, error: Exception) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if _is_locked(error):
        return (
            f"{path} has been locked by another process for {LOCK_WAIT_S:.0f} s; end that process "
            "(or wait), or name another file for the cache."
        )
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return (
            f"{path} is damaged or no answer cache ({error}). Put a copy in its place, save what "
            f"can be read (sqlite3 {path} .recover), or name another file and pay anew."
        )
    return f"{path} can't be read or written as a cache ({error}); mend that, or name another file."
