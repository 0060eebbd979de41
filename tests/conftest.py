"""Fixtures and settings shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Tests are about values, not speed: one device, no accelerator, no surprises between machines.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

settings.register_profile("gplan", deadline=None, max_examples=50)
settings.load_profile("gplan")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden figures beside the repository; tests that need it skip where absent."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("golden figures (../shared beside the repository) are not here")
    return SHARED
