"""Contexts to try the server with: simulated rows, no real users'."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from gplan_jax.gsisr import Sample
from gplan_jax.serving.planning.schemas import Context, Example
from gplan_jax.synthesis.world.simulation import simulate_rows

SEED, ROWS = 7, 200


@lru_cache
def example_contexts(count: int) -> tuple[Example, ...]:
    """``count`` simulated contexts, as different as their orders and current places are."""
    samples = list(simulate_rows(ROWS, SEED)) if count else []
    kinds: dict[tuple[str, str], Sample] = {}
    for sample in samples:
        kinds.setdefault((sample.trigger_1, sample.current_tag), sample)
    # One context of each order type first, then a second one of each, and so on.
    seen: Counter[str] = Counter()
    rounds: list[tuple[int, Sample]] = []
    for sample in kinds.values():
        rounds.append((seen[sample.trigger_1], sample))
        seen[sample.trigger_1] += 1
    chosen = [sample for _, sample in sorted(rounds, key=lambda entry: entry[0])[:count]]
    return tuple(
        Example(
            name=f"{sample.trigger_1} · {sample.current_tag} · {sample.currenttime[5:16]}",
            context=Context(**{k: v for k, v in sample.to_dict().items() if k != "raw_labels"}),
        )
        for sample in chosen
    )
