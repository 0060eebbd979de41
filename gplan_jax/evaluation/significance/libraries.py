"""scipy and statsmodels, loaded where a test runs: they come with the extra ``baselines``."""

from __future__ import annotations

import importlib
from types import ModuleType

from gplan_jax.foundation import GplanError


def load(module: str) -> ModuleType:
    """The module of that name.

    Raises:
        GplanError: it is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise GplanError(
            f"Tests and intervals between arms need {module.partition('.')[0]}, which is not "
            "installed: pip install 'gplan-jax[baselines]'."
        ) from None
