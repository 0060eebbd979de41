"""The names of the sequential models."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """Which model."""

    SASREC = "sasrec"
    BERT4REC = "bert4rec"
    REAREC_ERL = "rearec_erl"
    REAREC_PRL = "rearec_prl"
