from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import (
    atomic_directory,
    atomic_write,
    file_digest,
    folder_hash,
    json_digest,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)


def test_a_failed_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("earlier")
    with pytest.raises(OSError, match="disk"), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["result.txt"]


def test_a_failed_directory_never_appears(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(OSError, match="disk"), atomic_directory(target) as temporary:
        (temporary / "part").write_text("half")
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_never_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_directory(target) as temporary:
        (temporary / "whole").write_text("first")
    with pytest.raises(GplanError, match="never overwritten"), atomic_directory(target):
        pass
    assert (target / "whole").read_text() == "first"
    empty = tmp_path / "empty"
    empty.mkdir()
    with atomic_directory(empty) as temporary:
        (temporary / "whole").write_text("second")
    assert (empty / "whole").read_text() == "second"


def test_json_round_trips_and_names_what_is_broken(tmp_path: Path) -> None:
    rows = [{"工具": "美食"}, {"n": 1.5}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == rows
    write_json(tmp_path / "value.json", rows)
    assert read_json(tmp_path / "value.json") == rows
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a": \n', encoding="utf-8")
    with pytest.raises(GplanError, match=r"rows\.jsonl, line 2"):
        list(read_jsonl(tmp_path / "rows.jsonl"))
    (tmp_path / "rows.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(GplanError, match="not UTF-8"):
        list(read_jsonl(tmp_path / "rows.jsonl"))
    with pytest.raises(GplanError, match="does not exist"):
        read_json(tmp_path / "none.json")


def test_digests_are_of_content_alone(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b"abc")
    assert file_digest(file).startswith("ba7816bf") and len(file_digest(str(file))) == 64
    with pytest.raises(GplanError, match=r"none\.csv does not exist or is not a file"):
        file_digest(tmp_path / "none.csv")
    assert json_digest({"a": 1, "b": ["家"]}) == json_digest({"b": ["家"], "a": 1})
    assert json_digest({"a": 1}) != json_digest({"a": 2})


KILLED = """
import os, sys
from gplan_jax.foundation.files import atomic_directory, atomic_write
with atomic_directory(sys.argv[1] + "/m") as folder, atomic_write(sys.argv[1] + "/m.csv") as file:
    (folder / "part").touch()
    print(folder.name, file.name, flush=True)
    sys.stdin.read()
"""


def test_the_next_write_removes_what_a_killed_process_has_left(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1) as other:
        assert other.stdout is not None
        left = set(other.stdout.readline().decode().split())
        (tmp_path / ".m.settings").touch()  # somebody's own
        with atomic_directory(tmp_path / "m"), atomic_write(tmp_path / "m.csv"):
            pass  # What another process still writes isn't touched.
        names = {path.name for path in tmp_path.iterdir()}
        assert names == left | {"m", "m.csv", ".m.settings"}
        other.kill()
    (tmp_path / "m").rmdir()
    with atomic_directory(tmp_path / "m"), atomic_write(tmp_path / "m.csv"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"m", "m.csv", ".m.settings"}


@pytest.mark.parametrize("umask", [0o002, 0o027, 0o077])
def test_what_is_written_follows_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with atomic_directory(tmp_path / "out") as folder:
            (folder / "deeper").mkdir(0o700)
            os.close(os.open(folder / "deeper" / "file", os.O_CREAT, 0o600))
        write_json(tmp_path / "value.json", 1)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    directory, file = 0o777 & ~umask, 0o666 & ~umask
    assert modes == {"out": directory, "deeper": directory, "file": file, "value.json": file}


def test_the_hash_of_a_folder_depends_on_names_and_contents_alone(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, str]) -> str:
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text, encoding="utf-8")
        return folder_hash(tmp_path / name)

    known = folder("a", {"x": "1", "below/y": "2"})
    assert folder("b", {"below/y": "2", "x": "1"}) == known
    others = [
        {"x": "1", "below/y": "3"},
        {"x": "1", "below/z": "2"},
        {"x": "12", "below/y": ""},
    ]
    hashes = {folder(f"c{n}", files) for n, files in enumerate(others)}
    assert len({known, *hashes}) == 4
    with pytest.raises(GplanError, match="missing or empty"):
        folder_hash(tmp_path / "none")
