"""Steps of the layouts taken in turns: times, losses, memory and time to compile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from bench_flops import PEAKS
from bench_layouts import Layout
from bench_torch import TorchSteps

TORCH = "torch_padded"
# Threads of another library may spin for a moment after their step.
SETTLE_SECONDS = 0.5
PEAK_SIZE, PEAK_REPEATS = 2048, 5


@dataclass
class Timings:
    """What was measured of one layout.

    Attributes:
        seconds: [rounds][batches] of a step.
        losses: [rounds][batches].
        compile_seconds: of every shape.
        bytes: most memory that a step of any shape takes: weights, optimizer, batch, temporaries.
    """

    seconds: list[list[float]] = field(default_factory=list)
    losses: list[list[float]] = field(default_factory=list)
    compile_seconds: list[float] = field(default_factory=list)
    bytes: float = 0.0

    def step_seconds(self) -> list[float]:
        """The median over the rounds for every batch."""
        return [statistics.median(times) for times in zip(*self.seconds, strict=True)]


def measure(
    layouts: Sequence[Layout],
    numbers: Sequence[int],
    torch_worker: TorchSteps | None,
    *,
    rounds: int,
    torch_rounds: int,
) -> tuple[dict[str, Timings], float]:
    """Takes the steps in turns.

    Args:
        layouts: of one run.
        numbers: the batches that each layout takes in each round.
        torch_worker: takes its turn after the layouts in the first ``torch_rounds`` rounds.

    Returns:
        Timings of every layout, and the device's peak in operations a second.
    """
    timings = {layout.name: Timings() for layout in layouts}
    if torch_worker:
        timings[TORCH] = Timings()
    # One state goes through all layouts, so only one set of weights is held.
    with jax.set_mesh(layouts[0].run.mesh):
        state = layouts[0].run.initial_state()
        compiled: dict[tuple[str, int], Any] = {}
        by_shape: dict[tuple[Any, ...], Any] = {}
        for layout in layouts:
            for number in numbers:
                batch = layout.to_devices(layout.load(number))
                key = (layout.name, *((k, v.shape) for k, v in sorted(batch.items())))
                if key not in by_shape:
                    by_shape[key] = compile_step(layout, state, batch, timings[layout.name])
                compiled[layout.name, number] = by_shape[key]
                state, metrics = by_shape[key](state, batch)  # the first call is slower
                jax.block_until_ready(metrics)
        peaks = []
        for turn in range(rounds):
            peaks.append(peak_flops())
            times: dict[str, list[float]] = {name: [] for name in timings}
            losses: dict[str, list[float]] = {name: [] for name in timings}
            for number in numbers:
                for layout in layouts:
                    batch = layout.to_devices(layout.load(number))
                    jax.block_until_ready((state, batch))
                    started = time.perf_counter()
                    state, metrics = compiled[layout.name, number](state, batch)
                    jax.block_until_ready((state, metrics))
                    times[layout.name].append(time.perf_counter() - started)
                    losses[layout.name].append(float(metrics["loss"]))
                if torch_worker and turn < torch_rounds:
                    answer = torch_worker.step(number)
                    times[TORCH].append(answer["seconds"])
                    losses[TORCH].append(answer["loss"])
                    timings[TORCH].bytes = answer["peak_gib"] * 2**30
                    time.sleep(SETTLE_SECONDS)
            for name in timings:
                if times[name]:
                    timings[name].seconds.append(times[name])
                    timings[name].losses.append(losses[name])
    return timings, statistics.median(peaks)


def compile_step(layout: Layout, state: Any, batch: Any, timings: Timings) -> Any:
    """Compiles a layout's step for one shape; notes the time and the memory it asks for."""
    started = time.perf_counter()
    compiled = layout.step.lower(state, batch).compile()  # type: ignore[attr-defined]
    timings.compile_seconds.append(time.perf_counter() - started)
    memory = compiled.memory_analysis()
    needed = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    timings.bytes = max(timings.bytes, needed)
    return compiled


def peak_flops() -> float:
    """Operations a second: the maker's figure, or on an unknown device a large product's best."""
    device = jax.devices()[0]
    for name, peak in PEAKS.items():
        if name.lower() in device.device_kind.lower():
            return peak * len(jax.devices())
    ones = jnp.ones((PEAK_SIZE, PEAK_SIZE), jnp.float32)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(ones, ones))
    seconds = []
    for _ in range(PEAK_REPEATS):
        started = time.perf_counter()
        jax.block_until_ready(product(ones, ones))
        seconds.append(time.perf_counter() - started)
    return 2 * PEAK_SIZE**3 / min(seconds)
