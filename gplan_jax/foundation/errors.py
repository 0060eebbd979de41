"""Errors a user can act on: each names what is at fault and the mend. Packages that come with an
optional extra are imported where they are used, and say how to install them.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

# Modules that are not called as their package is.
_PACKAGES = {"sklearn": "scikit-learn", "tea_tasting": "tea-tasting"}


class GplanError(Exception):
    """Bad input or surroundings; the command line prints the message and exits with 2."""


class NothingKept(GplanError):
    """Nothing of a run succeeded, so it leaves no rows or scores; the command exits with 3."""


class RowError(GplanError):
    """A problem in one data row.

    ``row`` counts data rows from 1 (a CSV header is not a row); ``column`` is None where the whole
    row is at fault; ``problem`` says what was found and expected, ``mend`` what the user can do.
    """

    def __init__(
        self, file: str | Path, row: int, column: str | None, problem: str, mend: str
    ) -> None:
        self.file, self.row, self.column = Path(file), row, column
        self.problem, self.mend = problem, mend
        place = f"{file}, row {row}" + (f", column {column}" if column else "")
        super().__init__(f"{place}: {problem}. {mend}")

    def __reduce__(self) -> tuple[type[RowError], tuple[object, ...]]:
        """How it comes back from another process: by its parts, not by its message."""
        return RowError, (self.file, self.row, self.column, self.problem, self.mend)


def nearest(word: str, known: Iterable[str]) -> str:
    """What an unknown word was meant to be, for error messages."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else f"known ones: {', '.join(known)}"


def meant(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`` (meant X?)``, to stand behind an unknown word; empty where none is like it."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f" (meant {near[0]}?)" if near else ""


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


def _mend(modules: Iterable[str], extra: str, purpose: str) -> str:
    roots = [module.partition(".")[0] for module in modules]
    names = ", ".join(_PACKAGES.get(root, root) for root in roots)
    return f"For {purpose} install {names}: pip install 'gplan-jax[{extra}]'."
