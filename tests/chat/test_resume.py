"""kill -9 in the middle of a run, and the run repeated: nothing paid twice, the same bytes."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chat import resumable
from tests.chat.servers import Server, scripted

ROWS = 150
FAULTS = [
    {"kind": "throttle", "share": 0.05, "retry_after_ms": 10},
    {"kind": "error", "share": 0.1, "times": 2},
    {"kind": "cut", "share": 0.1},
    {"kind": "truncate", "share": 0.1},
    {"kind": "hang", "share": 0.02},
]


def start(server: Server, cache: Path, out: Path) -> subprocess.Popen[bytes]:
    arguments = [server.url, str(cache), str(out), str(ROWS)]
    return subprocess.Popen([sys.executable, resumable.__file__, *arguments])


def kept(cache: Path) -> set[str]:
    """The keys of the answers in a cache."""
    if not cache.exists():
        return set()
    connection = sqlite3.connect(cache, timeout=10)
    try:
        return {key for (key,) in connection.execute("SELECT key FROM answers")}
    except sqlite3.OperationalError:  # The tables are just being made.
        return set()
    finally:
        connection.close()


def test_a_killed_run_repeated_asks_for_nothing_twice_and_writes_the_same_bytes(
    tmp_path: Path,
) -> None:
    with scripted(tmp_path, name="undisturbed", latency_s=0.01) as server:
        undisturbed = tmp_path / "undisturbed.jsonl"
        assert start(server, tmp_path / "a.sqlite", undisturbed).wait(60) == 0
        plain = server.log()["paid"]
    cache, out = tmp_path / "b.sqlite", tmp_path / "out.jsonl"
    with scripted(tmp_path, name="disturbed", latency_s=0.02, faults=FAULTS) as server:
        asked_before: dict[str, int] = {}
        for answers in (20, 60, 110):
            process = start(server, cache, out)
            deadline = time.monotonic() + 60
            while len(kept(cache)) < answers and time.monotonic() < deadline:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            assert process.wait(10) == -signal.SIGKILL
            safe, asked_before = kept(cache), server.log()["asked"]
            assert answers <= len(safe) < ROWS and not out.exists()
        assert start(server, cache, out).wait(60) == 0
        log = server.log()
    # No answer that was safe at the last kill was asked for again.
    assert all(log["asked"][key] == asked_before[key] for key in safe)
    assert len(log["paid"]) == ROWS and set(log["paid"].values()) == {1}
    assert log["paid"] == plain
    assert out.read_bytes() == undisturbed.read_bytes()
    # What a kill costs: at most the requests that were on the wire.
    again = [key for key, times in log["sent"].items() if times > 1]
    assert len(again) <= 3 * 8


@pytest.mark.parametrize("idempotent", [True, False])
def test_what_was_on_the_wire_at_the_kill_is_the_most_that_can_be_billed_twice(
    tmp_path: Path, idempotent: bool
) -> None:
    cache, out = tmp_path / "cache.sqlite", tmp_path / "out.jsonl"
    with scripted(tmp_path, latency_s=0.03, idempotent=idempotent) as server:
        process = start(server, cache, out)
        while len(kept(cache)) < 24:
            time.sleep(0.005)
        process.kill()
        process.wait(10)
        assert start(server, cache, out).wait(60) == 0
        paid = server.log()["paid"]
    twice = sum(times - 1 for times in paid.values())
    assert len(paid) == ROWS and twice <= (0 if idempotent else 8)
