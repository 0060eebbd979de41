from __future__ import annotations

from pathlib import Path

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr.prompts import Templates, read_templates

FILES = ("top.j2", "part.j2")


def folder_of(path: Path, **texts: str) -> Path:
    path.mkdir()
    for name, text in texts.items():
        (path / f"{name}.j2").write_text(text, encoding="utf-8")
    return path


def test_a_folder_is_found_by_its_name_or_its_path(tmp_path: Path) -> None:
    ours = folder_of(tmp_path / "ours", top="a", part="b")
    for given in ("ours", ours):
        name, sources = read_templates(given, shipped=[tmp_path], files=FILES, kind="letter")
        assert (name, sources) == ("ours", {"top.j2": "a", "part.j2": "b"})
    with pytest.raises(GplanError, match=r"theirs is neither a folder nor a shipped letter \(ours"):
        read_templates("theirs", shipped=[tmp_path], files=FILES, kind="letter")


def test_every_missing_file_is_named_and_other_encodings_are_refused(tmp_path: Path) -> None:
    bare = folder_of(tmp_path / "bare")
    with pytest.raises(GplanError, match=r"Letter .*bare lacks top\.j2 and part\.j2"):
        read_templates(bare, shipped=[tmp_path], files=FILES, kind="letter")
    odd = folder_of(tmp_path / "odd", top="a", part="b")
    (odd / "part.j2").write_bytes("位置".encode("gbk"))
    with pytest.raises(GplanError, match="odd is not UTF-8"):
        read_templates(odd, shipped=[tmp_path], files=FILES, kind="letter")


def test_templates_include_each_other_and_pass_their_values_on() -> None:
    sources = {"top.j2": "{% include 'part.j2' %}, {{ who | shout }}", "part.j2": "to {{ who }}"}
    letters = Templates.compile(
        "ours",
        sources,
        kind="letter",
        finalize=lambda value: f"<{value}>",
        filters={"shout": lambda text: text.upper()},
    )
    assert letters.fill("top.j2", who="bo") == "to <bo>, <BO>"


def test_faults_name_the_folder_the_file_and_the_line() -> None:
    with pytest.raises(GplanError, match=r"Letter ours, part\.j2, line 2"):
        Templates.compile("ours", {"top.j2": "", "part.j2": "\n{% if %}"}, kind="letter")
    letters = Templates.compile("ours", {"top.j2": "{{ missing }}"}, kind="letter")
    with pytest.raises(GplanError, match=r"ours, top\.j2, can't be filled in: .*missing"):
        letters.fill("top.j2")
    attack = Templates.compile("ours", {"top.j2": "{{ ''.__class__.__mro__ }}"}, kind="letter")
    with pytest.raises(GplanError, match=r"top\.j2, can't be filled in"):
        attack.fill("top.j2")
