from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import Config, load_config, parse_yaml


class Inner(Config):
    learning_rate: float = 0.1
    clip_norm: float = 1.0


class Outer(Config):
    epochs: int
    name: str = "run"
    optimizer: Inner = Inner()


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_overrides_replace_typed_values(tmp_path: Path) -> None:
    path = write(tmp_path, "epochs: 3\noptimizer: {learning_rate: 5e-6}\n")
    config = load_config(Outer, path, ["optimizer.clip_norm=0.5", "name=other", "epochs=4"])
    assert config == Outer(
        epochs=4, name="other", optimizer=Inner(learning_rate=5e-6, clip_norm=0.5)
    )


@pytest.mark.parametrize("text", ["5e-6", "1E3", "-2e+4", "1.5e-3"])
def test_exponents_are_numbers(text: str) -> None:
    assert parse_yaml(text, source="a") == float(text)


def test_every_fault_is_named_with_near_keys(tmp_path: Path) -> None:
    path = write(tmp_path, "epochs: many\noptimizer: {learning_rat: 1.0}\n")
    with pytest.raises(GplanError) as raised:
        load_config(Outer, path)
    message = str(raised.value)
    assert "run.yaml" in message
    assert "epochs: " in message and "'many'" in message
    assert "optimizer.learning_rat: unknown key; did you mean learning_rate?" in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("epochs", "not of the form key=value"),
        ("epochs.more=1", "is a value, not a section"),
        ("epochs=[1", "not valid YAML"),
    ],
)
def test_bad_overrides_are_named(tmp_path: Path, override: str, expected: str) -> None:
    with pytest.raises(GplanError, match=expected):
        load_config(Outer, write(tmp_path, "epochs: 3\n"), [override])


@pytest.mark.parametrize(("text", "expected"), [("- 1\n", "mapping"), ("a: [", "not valid YAML")])
def test_files_that_are_no_config(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(GplanError, match=expected):
        load_config(Outer, write(tmp_path, text))
    with pytest.raises(GplanError, match="does not exist"):
        load_config(Outer, tmp_path / "none.yaml")


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(GplanError, match=r"run\.yaml is not UTF-8"):
        load_config(Outer, tmp_path / "run.yaml")


def test_a_key_without_default_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(GplanError, match="epochs: missing"):
        load_config(Outer, write(tmp_path, "name: run\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs: 1\noptimizer: {clip_norm: 1.0, clip_norm: 2.0}\n", "clip_norm is given twice"),
        ('epochs: 1\nname: "\\ud83d"\n', "holds half a character"),
        ("epochs: 1\nname: 2026-02-30\n", "'2026-02-30' can't be read"),
        ("epochs: !!int x\n", "'x' can't be read"),
        (f"epochs: {'9' * 5000}\n", "can't be read"),
        ('name: "\\U00110000"\n', "not in range"),
        ("[" * 3000, "nested too deeply"),
        ("epochs: 1\noptimizer: {learning_rate: .nan}\n", "learning_rate: .*finite"),
        ("epochs: 1\noptimizer: {learning_rate: 1e999}\n", "learning_rate: .*finite"),
    ],
)
def test_what_yaml_passes_over_is_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(GplanError, match=rf"run\.yaml (?s:.*){expected}"):
        load_config(Outer, write(tmp_path, text))


@given(
    st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
)
def test_json_is_yaml(values: dict[str, str]) -> None:
    """Also what lies beyond the first 65,536 characters, which JSON writes as two halves."""
    assert parse_yaml(json.dumps(values), source="a") == values


def test_keys_are_merged_and_overridden_as_yaml_says() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: [*b, *a], y: 4}\n1: i\n'1': t\n"
    values = parse_yaml(text, source="a")
    assert (values["b"], values["c"]) == ({"x": 3, "y": 2}, {"x": 3, "y": 4})
    assert (values[1], values["1"]) == ("i", "t")
