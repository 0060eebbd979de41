"""Packages that come with an optional extra, imported where they are used."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType

from gplan_jax.foundation.errors import GplanError

# Modules that are not called as their package is.
_PACKAGES = {"sklearn": "scikit-learn", "tea_tasting": "tea-tasting"}


def load_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports a module; GplanError names the extra that brings it, "For <purpose> install ..."."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise GplanError(_mend([module], extra, purpose)) from error


def require_extra(modules: Iterable[str], extra: str, purpose: str) -> None:
    """Checks that modules are installed, without importing them; otherwise as ``load_extra``."""
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        raise GplanError(_mend(missing, extra, purpose))


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps OpenMP to one thread; the estimator must be made before, so that OpenMP is loaded.

    On a few hundred rows, threads that wait for each other on a busy machine take 100 times longer.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(limits=1):
        yield


def _mend(modules: Iterable[str], extra: str, purpose: str) -> str:
    roots = [module.partition(".")[0] for module in modules]
    names = ", ".join(_PACKAGES.get(root, root) for root in roots)
    return f"For {purpose} install {names}: pip install 'gplan-jax[{extra}]'."
