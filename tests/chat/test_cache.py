from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gplan_jax.chat import cache as cache_module
from gplan_jax.chat.cache import VERSION, Cache, merge_shards, shard_of, totals_of
from gplan_jax.chat.messages import ChatReply
from gplan_jax.foundation import GplanError

REPLY = ChatReply("text 计划 \x00", "stop", "k", "m", 10, 5, False, 2, "json_object", 0.25)


def keep(path: Path, *replies: ChatReply, unusable: str = "") -> list[ChatReply]:
    async def main() -> list[ChatReply]:
        cache = Cache(path, "USD")
        try:
            return await asyncio.gather(
                *(cache.keep(reply, unusable=unusable) for reply in replies)
            )
        finally:
            await cache.close()

    return asyncio.run(main())


def read(path: Path, key: str) -> ChatReply | None:
    async def main() -> ChatReply | None:
        cache = Cache(path, "USD")
        try:
            return cache.get(key)
        finally:
            await cache.close()

    return asyncio.run(main())


def test_an_answer_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cache.sqlite"
    assert keep(path, REPLY) == [REPLY]
    assert read(path, "k") == replace(REPLY, cached=True)
    assert read(path, "other") is None
    bare = replace(REPLY, key="bare", prompt_tokens=None, completion_tokens=None, cost=None)
    keep(path, bare)
    assert read(path, "bare") == replace(bare, cached=True)
    # Closed, it is one file.
    assert [file.name for file in path.parent.iterdir()] == ["cache.sqlite"]


def test_an_answer_is_on_the_disk_when_keep_returns(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"

    async def main() -> None:
        cache = Cache(path, "USD")
        for number in range(20):
            await cache.keep(replace(REPLY, key=str(number)))
            other = sqlite3.connect(path)
            assert other.execute("SELECT count(*) FROM answers").fetchone() == (number + 1,)
            other.close()
        await cache.close()

    asyncio.run(main())


def test_the_first_answer_to_a_key_stays_and_whoever_came_later_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    keep(path, REPLY)
    (given,) = keep(path, replace(REPLY, text="another", cost=0.5))
    assert given.text == REPLY.text

    async def totals() -> tuple[int, float]:
        cache = Cache(path, "USD")
        try:
            return cache.totals().answers, cache.totals().cost
        finally:
            await cache.close()

    assert asyncio.run(totals()) == (2, 0.75)  # Both were paid for.


def test_what_is_unusable_is_counted_but_never_found(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    keep(path, REPLY, unusable="filtered")
    assert read(path, "k") is None

    async def main() -> None:
        cache = Cache(path, "USD")
        assert cache.totals() == (1, 10, 5, 0.25, 0)
        await cache.close()
        with pytest.raises(GplanError, match="another currency than EUR"):
            Cache(path, "EUR").totals()

    asyncio.run(main())


# Each process keeps answers to the same keys: all race for every one.
WRITER = """
import asyncio, sys
from pathlib import Path
from gplan_jax.chat.cache import Cache
from gplan_jax.chat.messages import ChatReply

async def main(path, name):
    cache = Cache(Path(path), "USD")
    for key in map(str, range(100)):
        await cache.keep(ChatReply(name, "stop", key, "m", 1, 1, False, 1, "none", None))
    await cache.close()

asyncio.run(main(*sys.argv[1:]))
"""


def test_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "abc"
    ]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT count(*) FROM answers").fetchone() == (100,)
    assert connection.execute("SELECT count(*) FROM unusable").fetchone() == (200,)
    connection.close()


def test_a_damaged_file_is_named_with_the_mend(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"not a database, but long enough to be taken for one" * 50)
    with pytest.raises(GplanError, match=r"cache\.sqlite is damaged or no .*name another"):
        Cache(path, "USD")
    path.unlink()
    keep(path, *(replace(REPLY, key=str(number), text="x" * 2000) for number in range(100)))
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))

    async def main() -> None:
        cache = Cache(path, "USD")
        cache.totals()

    with pytest.raises(GplanError, match=r"cache\.sqlite is damaged"):
        asyncio.run(main())


def test_files_of_others_and_of_other_versions_are_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.sqlite"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(GplanError, match=r"foreign\.sqlite is the SQLite file of another program"):
        Cache(foreign, "USD")
    newer = tmp_path / "newer.sqlite"
    keep(newer, REPLY)
    connection = sqlite3.connect(newer)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(GplanError, match=rf"newer\.sqlite .* version {VERSION + 1}"):
        Cache(newer, "USD")
    (tmp_path / "directory").mkdir()
    with pytest.raises(GplanError, match="directory can't be read or written"):
        Cache(tmp_path / "directory", "USD")


def test_a_locked_file_is_named_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "LOCK_WAIT_S", 0.05)
    path = tmp_path / "cache.sqlite"
    keep(path, REPLY)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(GplanError, match=r"cache\.sqlite has been locked by another process"):
        Cache(path, "USD")
    other.execute("ROLLBACK")

    async def main() -> None:
        cache = Cache(path, "USD")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(GplanError, match="has been locked"):
            await cache.keep(replace(REPLY, key="new"))
        other.execute("ROLLBACK")
        await cache.keep(replace(REPLY, key="new"))  # It is no worse for it.
        assert cache.get("new") is not None
        await cache.close()

    asyncio.run(main())
    other.close()


def test_an_answer_that_can_not_be_written_fails_alone(tmp_path: Path) -> None:
    async def main() -> None:
        cache = Cache(tmp_path / "cache.sqlite", "USD")
        with pytest.raises(UnicodeEncodeError):
            await asyncio.wait_for(cache.keep(replace(REPLY, text="\ud800")), 10)
        await asyncio.wait_for(cache.keep(REPLY), 10)
        await cache.close()

    asyncio.run(main())


def test_shards_become_one_cache(tmp_path: Path) -> None:
    """Workers find what the cache holds, pay into their own files, and all that is paid for counts
    once, also where a merge was killed before its files were gone."""
    whole = tmp_path / "cache.sqlite"
    keep(whole, REPLY)
    merge_shards(whole)
    one, other = (shard_of(whole, worker) for worker in "ab")
    assert read(one, "k") == replace(REPLY, cached=True)
    keep(one, replace(REPLY, key="both"), replace(REPLY, key="a"))
    keep(one, replace(REPLY, key="filtered"), unusable="filtered")
    keep(other, replace(REPLY, key="both", text="another", cost=0.5), replace(REPLY, key="b"))
    assert totals_of(whole, "USD").answers == 1  # While they work, nobody writes it.
    before = {path: path.read_bytes() for path in (one, other)}
    for _ in range(2):
        merge_shards(whole)
        assert [path.name for path in tmp_path.iterdir()] == ["cache.sqlite"]
        found = totals_of(whole, "USD")
        assert (found.answers, found.cost) == (6, 5 * REPLY.cost + 0.5)  # type: ignore[operator]
        assert read(whole, "both") == replace(REPLY, key="both", cached=True)
        assert read(whole, "a") and read(whole, "b") and read(whole, "filtered") is None
        one.parent.mkdir()
        for path, content in before.items():
            path.write_bytes(content)
    (one.parent / "c.sqlite").write_text("no cache")
    with pytest.raises(GplanError, match=r"c\.sqlite is damaged or no answer cache"):
        merge_shards(whole)


def test_a_cache_that_is_missing_has_no_totals(tmp_path: Path) -> None:
    assert totals_of(tmp_path / "nowhere.sqlite", "USD").answers == 0
    merge_shards(tmp_path / "nowhere.sqlite")
    assert list(tmp_path.iterdir()) == []
