"""Arms that learn in no time, for tests of the comparison; workers import them by this name."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gplan_jax.baselines.fitting.arms import Arm, Arms, Fitted
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import Config
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan, parse_plan

NETWORKS = {
    name: f"toy_arms:{name.upper()}" for name in ("toy", "peek", "failing", "deadly", "killer")
}
ARMS = Arms(NETWORKS)


class ToySettings(Config):
    """Which of the frequent plans is always given, and where fits are noted."""

    rank: int = 0
    epochs: int = 5
    stop_after: int | None = None
    log: str = ""


@dataclass(frozen=True)
class Constant:
    """Always the same plan; free of constraints its first intent twice. Labels come back as they
    are, so that whoever hands them over is caught."""

    plan: str
    library: IntentLibrary
    parameters: int = 1234

    def predict(self, samples: Sequence[Sample], *, constrained: bool) -> list[str]:
        free = canonical_plan(parse_plan(self.plan, self.library)[:1] * 2, self.library)
        return [s.raw_labels or (self.plan if constrained else free) for s in samples]


def fit_toy(
    train: Sequence[Sample],
    validation: Sequence[Sample],
    settings: ToySettings,
    mode: InputMode,
    library: IntentLibrary,
    seed: int,
) -> Fitted:
    """The plan of that rank among the training plans, seed after seed a rarer one.

    With validation rows the loss is best after three epochs, and the fit ends after the fifth.
    """
    epochs = settings.stop_after or settings.epochs
    if settings.log:
        with Path(settings.log).open("a", encoding="utf-8") as log:
            log.write(f"{settings.rank} {seed} {epochs} {len(train)} {len(validation)}\n")
    counts = Counter(canonical_plan(parse_plan(s.raw_labels, library), library) for s in train)
    ranked = sorted(counts, key=lambda text: (-counts[text], text))
    curve = [
        {"epoch": e, "loss": 1 / e, "validation_loss": 1 + abs(e - 3) if validation else None}
        for e in range(1, epochs + 1)
    ]
    return Fitted(Constant(ranked[(settings.rank + seed) % len(ranked)], library), curve)


def fit_failing(*given: object) -> Fitted:
    raise GplanError("the toy broke; mend the toy")


def fit_deadly(*given: object) -> Fitted:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


def fit_killer(
    train: Sequence[Sample],
    validation: Sequence[Sample],
    settings: ToySettings,
    mode: InputMode,
    library: IntentLibrary,
    seed: int,
) -> Fitted:
    """As the toy, but its fifth fit kills the command that wants it."""
    fitted = fit_toy(train, validation, settings, mode, library, seed)
    mark = Path(settings.log)
    if settings.log and len(mark.read_text(encoding="utf-8").splitlines()) == 5:
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
    return fitted


def _arm(name: str, fit: object) -> Arm:
    trials = ({}, {"rank": 1}, {"rank": 2}, {"rank": 3})
    return Arm(name, f"The {name}", ToySettings, trials, fit)  # type: ignore[arg-type]


TOY = _arm("toy", fit_toy)
PEEK = _arm("peek", fit_toy)
FAILING = _arm("failing", fit_failing)
DEADLY = _arm("deadly", fit_deadly)
KILLER = _arm("killer", fit_killer)


def main() -> None:
    """The gplan command with these arms for networks."""
    from gplan_jax.cli.main import main as gplan
    from gplan_jax.evaluation.comparison import known_arms

    known_arms.NETWORKS = NETWORKS
    gplan()


if __name__ == "__main__":
    import toy_arms  # By the name that workers know it under.

    toy_arms.main()
