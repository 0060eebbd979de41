"""Steps of the layouts taken in turns: times, losses, memory and time to compile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from bench_flops import PEAKS
from bench_layouts import Layout
from bench_torch import TorchSteps

from gplan_jax.training.loop.run_clock import measured_peak

TORCH = "torch_padded"
Answer = dict[str, Any]  # seconds, processor, loss of one step
# Threads of another library may spin for a moment after their step.
SETTLE_SECONDS = 0.5


@dataclass
class Timings:
    """What was measured of one layout.

    Attributes:
        seconds: [rounds][batches] of a step.
        processor: likewise, seconds of all CPU cores together: what a busy machine disturbs less.
        losses: [rounds][batches].
        compile_seconds: of every shape.
        bytes: most memory that a step of any shape takes: weights, optimizer, batch, temporaries.
    """

    seconds: list[list[float]] = field(default_factory=list)
    processor: list[list[float]] = field(default_factory=list)
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
                key = (layout.name, *(leaf.shape for leaf in jax.tree.leaves(batch)))
                if key not in by_shape:
                    by_shape[key] = compile_step(layout, state, batch, timings[layout.name])
                    state, metrics = by_shape[key](state, batch)  # the first call is slower
                    jax.block_until_ready(metrics)
                compiled[layout.name, number] = by_shape[key]
        peaks = []
        for turn in range(rounds):
            peaks.append(peak_flops(layouts[0].run.config.precision.compute))
            answers: dict[str, list[Answer]] = {name: [] for name in timings}
            for number in numbers:
                for layout in layouts:
                    batch = layout.to_devices(layout.load(number))
                    state, answer = take_step(compiled[layout.name, number], state, batch)
                    answers[layout.name].append(answer)
                if torch_worker and turn < torch_rounds:
                    answers[TORCH].append(torch_worker.step(number))
                    timings[TORCH].bytes = answers[TORCH][-1]["peak_gib"] * 2**30
                    time.sleep(SETTLE_SECONDS)
            for name, found in answers.items():
                if found:
                    timings[name].seconds.append([answer["seconds"] for answer in found])
                    timings[name].processor.append([answer["processor"] for answer in found])
                    timings[name].losses.append([answer["loss"] for answer in found])
    return timings, statistics.median(peaks)


def take_step(compiled: Any, state: Any, batch: Any) -> tuple[Any, Answer]:
    """Takes one step and waits for all of it."""
    jax.block_until_ready((state, batch))
    wall, processor = time.perf_counter(), time.process_time()
    state, metrics = compiled(state, batch)
    jax.block_until_ready((state, metrics))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return state, {"seconds": wall, "processor": processor, "loss": float(metrics["loss"])}


def compile_step(layout: Layout, state: Any, batch: Any, timings: Timings) -> Any:
    """Compiles a layout's step for one shape; notes the time and the memory it asks for."""
    started = time.perf_counter()
    lowered = layout.step.lower(state, batch, *layout.constants)  # type: ignore[attr-defined]
    compiled = lowered.compile()
    timings.compile_seconds.append(time.perf_counter() - started)
    memory = compiled.memory_analysis()
    needed = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    timings.bytes = max(timings.bytes, needed)
    return lambda state, batch: compiled(state, batch, *layout.constants)


def peak_flops(dtype: str) -> float:
    """Operations a second: the maker's figure, or on an unknown device a large product's best."""
    device = jax.devices()[0]
    for name, peak in PEAKS.items():
        if name.lower() in device.device_kind.lower():
            return peak * len(jax.devices())
    measured_peak.cache_clear()  # Other work comes and goes; the figure is to be of this round.
    return measured_peak(dtype)
