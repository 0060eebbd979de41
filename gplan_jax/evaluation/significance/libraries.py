"""scipy and statsmodels, loaded where a test runs: they come with the extra ``baselines``."""

from __future__ import annotations

from types import ModuleType

from gplan_jax.foundation.extras import load_extra


def load(module: str) -> ModuleType:
    """The module of that name.

    Raises:
        GplanError: it is not installed; names the extra that brings it.
    """
    return load_extra(module, "baselines", "tests and intervals between arms")
