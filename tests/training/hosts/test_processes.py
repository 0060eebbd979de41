from __future__ import annotations

import hashlib

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from gplan_jax.training.hosts.processes import differing


def digests(**contents: str) -> dict[str, str]:
    return {key: hashlib.sha256(value.encode()).hexdigest() for key, value in contents.items()}


def test_one_process_agrees_with_itself() -> None:
    assert differing(digests(rows="a", prompt="b")) == []


@pytest.mark.parametrize("own", [0, 1, 2])
def test_what_differs_is_named_in_every_process(own: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes, simulated: each one's share of the gather is computed by the same code."""
    inputs = [
        digests(rows="rows", prompt="p", tokenizer="t"),
        digests(rows="other rows", prompt="p", tokenizer="t"),
        digests(rows="rows", prompt="p", tokenizer="t"),
    ]
    shares: list[np.ndarray] = []
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda x: shares.append(x) or x[None])
    for values in inputs:
        assert differing(values) == []
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda x: np.stack(shares))
    assert differing(inputs[own]) == ["rows"]
