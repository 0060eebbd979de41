"""The folder's own modules can be imported, and the server's log can be read."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gplan_jax.serving.http.telemetry import logger

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """What the server logs from now on."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)
