"""`gplan bench`: what it says where it can't measure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gplan_jax.cli.main import app
from gplan_jax.cli.serve import parse_modes, parse_rates
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import api_key


def test_rates_are_numbers_or_lists_of_them() -> None:
    assert parse_rates(["10"]) == (10.0,)
    assert parse_rates(["5,10", "0.5", "10"]) == (5.0, 10.0, 0.5)
    for wrong in ("", "ten", "0", "-1", "nan", "inf", "5,,6"):
        with pytest.raises(GplanError, match="is no rate"):
            parse_rates([wrong])


def test_modes_belong_to_names() -> None:
    modes = parse_modes(["picd=constrained", "cot=unconstrained"])
    assert modes == {"picd": "constrained", "cot": "unconstrained"}
    for wrong in ("constrained", "picd=fast", "picd="):
        with pytest.raises(GplanError, match="one of unconstrained, constrained, drafted"):
            parse_modes([wrong])


def test_a_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANNER_KEY", "secret")
    key = api_key("PLANNER_KEY")
    assert key is not None and key.get_secret_value() == "secret" and "secret" not in repr(key)
    assert api_key(None) is None
    with pytest.raises(GplanError, match="NO_SUCH_KEY"):
        api_key("NO_SUCH_KEY")


def failure(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["bench", "latency", *arguments])
    assert isinstance(result.exception, GplanError), result.output
    return str(result.exception)


def test_what_to_measure_must_be_named_and_there(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "out"))
    address = ("--url", "http://127.0.0.1:9")
    assert "--model NAME=DIR" in failure(*out)
    assert "--model NAME=DIR" in failure(*out, "--model", "a=b", *address)
    assert "leave out --url" in failure(*out, *address, "--mode", "a=drafted")
    assert "leave out --url" in failure(*out, *address, "--replicas", "1,2")
    for wrong in ("0", "1,1", "two", "1,"):
        assert "numbers from 1" in failure(*out, "--model", "a=b", "--replicas", wrong)
    assert "is not a model directory" in failure(*out, "--model", f"picd={tmp_path / 'absent'}")
    assert "absent.csv does not exist" in failure(
        *out, *address, "--data", str(tmp_path / "absent.csv")
    )
    assert "It is not known which service" in failure(*out, *address)
    assert not (tmp_path / "out").exists()


def test_what_the_extra_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h11", None)  # as if it were not installed
    for name in [
        name for name in sys.modules if name.startswith("gplan_jax.serving.latency.load_generator")
    ]:
        monkeypatch.delitem(sys.modules, name)
    said = failure("--out", str(tmp_path / "out"), "--url", "http://127.0.0.1:9")
    assert said == "For the load generator install h11: pip install 'gplan-jax[serve]'."
