"""The licence check, on this environment and on packages that are none of its kind."""

from __future__ import annotations

import importlib.util
from email.message import Message
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "supply_chain.py"


@pytest.fixture(scope="module")
def supply_chain() -> ModuleType:
    spec = importlib.util.spec_from_file_location("supply_chain", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_that_is_installed_is_free_to_build_on(
    supply_chain: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert supply_chain.licenses() == 0, capsys.readouterr().out
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("jax==") and line.endswith(": Apache-2.0") for line in lines)
    assert len(lines) > 50  # Dependencies of dependencies too.


@pytest.mark.parametrize(
    ("header", "value", "says", "fails"),
    [
        ("License-Expression", "MIT", "MIT", False),
        ("License-Expression", "GPL-3.0-only OR MIT", "GPL-3.0-only OR MIT", False),
        ("License-Expression", "MIT AND GPL-3.0-only", "MIT AND GPL-3.0-only", True),
        ("Classifier", "License :: OSI Approved :: BSD License", "BSD License", False),
        ("License", "Proprietary\nall of it", "Proprietary", True),
        ("Summary", "none", "unknown", True),
    ],
)
def test_a_licence_is_read_and_judged(
    supply_chain: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    header: str,
    value: str,
    says: str,
    fails: bool,
) -> None:
    about = Message()
    about["Name"], about[header] = "some", value
    one = SimpleNamespace(metadata=about, version="1")
    monkeypatch.setattr(supply_chain, "distributions", lambda: [one])
    assert supply_chain.licenses() == fails
    assert f"some==1: {says}" in capsys.readouterr().out
