from __future__ import annotations

from pathlib import Path

import pytest

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary


def test_the_shipped_library_has_the_public_tools_and_values(amap: IntentLibrary) -> None:
    assert list(amap.tools) == [f"tool_{i}" for i in range(1, 11)]
    assert amap.keys == ("工具名称", "起始位置", "终点位置", "空间范围", "tag")
    sizes = [len(parameter.values or ()) for parameter in amap.parameters.values()]
    assert sizes == [3, 7, 3, 10]
    assert (amap.plan_length.minimum, amap.plan_length.maximum) == (3, 9)
    assert amap.exclusive_groups == [["tool_1", "tool_2", "tool_4"]]


def test_canonical_order_and_relevance(english: IntentLibrary) -> None:
    intent = {"note": "n", "target": "library", "action": "walk"}
    assert list(english.canonical_intent(intent)) == ["action", "target", "note"]
    assert english.relevance_key(intent) == ("walk", "library")
    assert english.relevance_key({"action": "rest"}) == ("rest", None)


def test_a_saved_library_loads_as_the_same(
    tmp_path: Path, amap: IntentLibrary, english: IntentLibrary
) -> None:
    for library in (amap, english):
        path = tmp_path / f"saved-{library.name}.yaml"
        library.save(path)
        assert IntentLibrary.load(path) == library
        assert IntentLibrary.load(path).keys == library.keys


def test_a_changed_file_is_read_anew(english_file: Path) -> None:
    before = IntentLibrary.load(english_file)
    english_file.write_text(english_file.read_text().replace("campus", "town"), encoding="utf-8")
    assert (before.name, IntentLibrary.load(english_file).name) == ("campus", "town")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("parameters: [note]", "parameters: [notes]", "parameter notes is not defined"),
        ("optional: [note]", "optional: [target]", "listed twice"),
        ("[[walk, bus]]", "[[walk, fly]]", "fly is not defined"),
        ("relevance_parameters: [target]", "relevance_parameters: [tag]", "tag is not defined"),
        ("minimum: 1", "minimum: 4", "greater than the maximum"),
        ("minimum: 1", "minimum: 0", "minimum"),
        ("previous_place: that place", "previous_place: there", "there"),
        ("tool_key: action", "tool_key: note", "also a parameter"),
        ("previous_place:", "previous_plase:", "did you mean previous_place"),
        ("yields_place: true", "yields_place: often", "yields_place"),
        ("books", "3", "target"),
    ],
)
def test_a_faulty_library_is_refused_by_name(
    english_file: Path, old: str, new: str, named: str
) -> None:
    text = english_file.read_text(encoding="utf-8")
    assert old in text
    english_file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(GplanError, match=named) as error:
        IntentLibrary.load(english_file)
    assert str(english_file) in str(error.value)


def test_all_faults_are_named_at_once(english_file: Path) -> None:
    text = english_file.read_text(encoding="utf-8")
    text = text.replace("[[walk, bus]]", "[[fly, swim]]").replace("minimum: 1", "minimum: 4")
    english_file.write_text(text, encoding="utf-8")
    with pytest.raises(GplanError, match=r"(?s)fly.*swim.*minimum"):
        IntentLibrary.load(english_file)


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(GplanError, match=r"nowhere\.yaml"):
        IntentLibrary.load(tmp_path / "nowhere.yaml")
