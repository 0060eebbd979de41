"""`gplan serve` with an engine that has no model: python fake_serve.py OPTIONS of gplan serve."""

from __future__ import annotations

import os
import sys
import time

from fake_engine import FakeEngine

from gplan_jax.cli.main import main
from gplan_jax.foundation import GplanError
from gplan_jax.serving.planning import serve as run


class FakePlanEngine:
    """Loads for FAKE_LOAD_S seconds; fails where FAKE_FAILURE is set."""

    @staticmethod
    def load(*arguments: object, **options: object) -> FakeEngine:
        time.sleep(float(os.environ.get("FAKE_LOAD_S", "0")))
        if problem := os.environ.get("FAKE_FAILURE"):
            raise GplanError(problem)
        return FakeEngine(delay_s=0.5)


if __name__ == "__main__":
    run.PlanEngine = FakePlanEngine  # type: ignore[misc,assignment]
    sys.argv[0] = "gplan"
    main()
