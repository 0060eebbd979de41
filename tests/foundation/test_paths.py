from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.paths import LOCK, alone_in, local_path


def test_a_second_process_is_refused_by_the_firsts_name_until_it_ends(
    tmp_path: Path, holder: Callable
) -> None:
    out = tmp_path / "runs" / "one"
    other = holder(out)
    message = rf"runs/one is being written by process {other.pid} on {os.uname().nodename}"
    # However the path is spelled, and whether or not it has come to be.
    for spelled in (out, out.parent / ".." / "runs" / "one"):
        with pytest.raises(GplanError, match="being written by"), alone_in(spelled):
            pass
    out.mkdir()
    with pytest.raises(GplanError, match=message), alone_in(out):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    with alone_in(out), alone_in(out):  # A command's stages lie within its own.
        pass
    assert list(out.parent.iterdir()) == [out]


def test_one_that_waits_goes_on_when_the_other_ends(tmp_path: Path, holder: Callable) -> None:
    other = holder(tmp_path / "run")
    other.stdin.close()
    with alone_in(tmp_path / "run", wait=True):
        assert (tmp_path / f".run{LOCK}").is_file()
    assert list(tmp_path.iterdir()) == []


def test_what_came_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError), alone_in(tmp_path / "a" / "b" / "run"):
        raise ValueError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["lr[1e-3]", "a*", "what?"])
def test_patterns_are_refused_before_any_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(GplanError, match="rename the directory"), alone_in(tmp_path / name / "run"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["gs://bucket/run", "s3://b/x", "hf://a/b", Path("gs://b/run")])
def test_cloud_paths_are_refused_by_name(given: str | Path) -> None:
    with pytest.raises(GplanError, match=r"^(gs|s3|hf):/.* name a local one: mount the bucket"):
        local_path(given)


def test_paths_are_read_as_people_write_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.setenv("RUNS", "/data/runs")
    assert local_path("~/run") == Path("/home/anna/run")
    assert local_path("$RUNS/a") == local_path("${RUNS}/a") == Path("/data/runs/a")
    for given in ("a$UNSET_THING", "${UNSET_THING}/x"):
        with pytest.raises(GplanError, match=r"UNSET_THING.* is not set"):
            local_path(given)
    with pytest.raises(GplanError, match="no such user"):
        local_path("~nobody-of-this-name/x")
    with pytest.raises(GplanError, match="is no path"):
        local_path("")
    # A file that has such a name is meant by it; a colon alone makes no cloud.
    Path("a$UNSET_THING").touch()
    assert local_path("a$UNSET_THING") == Path("a$UNSET_THING")
    assert local_path("12:30/run") == Path("12:30/run")
