"""What is said where an optional package is missing."""

from __future__ import annotations

import sys

import pytest

from gplan_jax.foundation.errors import GplanError, load_extra, require_extra


def test_a_module_is_imported() -> None:
    import json.decoder

    assert load_extra("json.decoder", "x", "reading") is json.decoder
    require_extra(["json", "csv"], "x", "reading")


def test_the_package_and_the_extra_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(GplanError) as caught:
        load_extra("sklearn.cluster", "baselines", "the codebooks")
    wanted = "For the codebooks install scikit-learn: pip install 'gplan-jax[baselines]'."
    assert str(caught.value) == wanted


def test_all_that_is_missing_is_named_without_an_import() -> None:
    with pytest.raises(GplanError) as caught:
        require_extra(["no_such_a", "sched", "no_such_b"], "serve", "the server")
    wanted = "For the server install no_such_a, no_such_b: pip install 'gplan-jax[serve]'."
    assert str(caught.value) == wanted and "sched" not in sys.modules
