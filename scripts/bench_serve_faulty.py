"""`gplan serve` whose busiest engine fails on SIGUSR1, as on a lost device; for bench_serve.py.

python scripts/bench_serve_faulty.py serve --model DIR --replicas 2
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

from gplan_jax.cli.main import main
from gplan_jax.inference.engine.engine import PlanEngine
from gplan_jax.serving.planning import serve as planning

HELD = "requests that the lost engine held: "
engines: list[PlanEngine] = []


class WatchedEngine(PlanEngine):
    """An engine that can be got at."""

    @classmethod
    def load(cls, *arguments: Any, **options: Any) -> PlanEngine:
        engines.append(engine := PlanEngine.load(*arguments, **options))
        return engine


def fail(number: int, frame: FrameType | None) -> None:
    """The next pass of the busiest engine raises, as it does on a device that is gone; the log says
    how many requests were in it.
    """

    engine = max(engines, key=lambda engine: len(engine._active) + len(engine._queue))

    def step() -> list[Any]:
        held = len(engine._active) + len(engine._admitting) + len(engine._queue)
        print(f"{HELD}{held}", file=sys.stderr, flush=True)
        raise RuntimeError("INTERNAL: the device is lost (injected by bench_serve_faulty.py)")

    engine._decoder.step = step  # type: ignore[method-assign]


if __name__ == "__main__":
    planning.PlanEngine = WatchedEngine  # type: ignore[misc]
    signal.signal(signal.SIGUSR1, fail)
    sys.argv[0] = "gplan"
    main()
