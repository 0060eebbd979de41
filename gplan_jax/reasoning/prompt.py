"""What a model is asked, in two parts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """The two parts of a request; ``system`` is the same for all rows of a data set."""

    system: str
    user: str
