"""Short requests beside very long prompts: the engine that prefills in parts, and the one that not.

    python scripts/bench_prefill.py
    python scripts/bench_prefill.py --long 8000 --seconds 60 --rate 4 --rounds 2

A small random Qwen3 plans for prompts of ``--short`` tokens, ``--rate`` a second (Poisson), alone
and beside one prompt of ``--long`` tokens after another, in parts (``--chunk``) and whole in turns.
Prints one JSON line: milliseconds of the short requests, median and 99th percentile, by case.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.foundation.streams import cores
from gplan_jax.gsisr import IntentLibrary, PromptTemplate, training_texts
from gplan_jax.inference.engine.decoder_setup import any_context
from gplan_jax.inference.engine.engine import PlanEngine
from gplan_jax.inference.engine.requests import EngineConfig, PlanRequest
from gplan_jax.models import convert_checkpoint
from gplan_jax.models.checkpoints.tiny import write_tiny_checkpoint
from gplan_jax.synthesis.world.simulation import simulate_rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", type=int, default=64)
    parser.add_argument("--long", type=int, default=8000)
    parser.add_argument("--rate", type=float, default=4.0)
    parser.add_argument("--seconds", type=float, default=40.0, help="of each case and round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--chunk", type=int, default=1024)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(options, Path(folder))))


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures by name."""
    model = small_model(folder)
    engines = {
        chunk: PlanEngine.load(
            model,
            EngineConfig(prefill_chunk=chunk, response="plan", slots=4, prefix_cache_mib=0),
            prompt_length=options.long,
            template="compact_zh",
        )
        for chunk in (options.chunk, 0)
    }
    task = GsisrTask.load(model, template="compact_zh", response="plan")
    encoder = ChatEncoder.load(model)
    system = tuple(map(int, encoder.system_ids(task.prompt(any_context(task)))))
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for name, chunk, beside in (
            ("alone", options.chunk, False),
            ("beside long prompts, in parts", options.chunk, True),
            ("beside long prompts, whole", 0, True),
        ):
            found.setdefault(name, []).extend(case(options, engines[chunk], system, rng, beside))
    for engine in engines.values():
        engine.close()
    figures = {
        name: {
            "requests": len(times),
            "p50_ms": round(float(np.percentile(times, 50)), 1),
            "p99_ms": round(float(np.percentile(times, 99)), 1),
        }
        for name, times in found.items()
    }
    parts, whole = (figures[f"beside long prompts, {way}"] for way in ("in parts", "whole"))
    return {
        "benchmark": "prefill",
        "short_tokens": options.short,
        "long_tokens": options.long,
        "short": figures,
        "p99_over_alone": round(parts["p99_ms"] / figures["alone"]["p99_ms"], 2),
        "p99_over_alone_whole": round(whole["p99_ms"] / figures["alone"]["p99_ms"], 2),
        "machine": {
            "device": jax.devices()[0].device_kind,
            "cores": cores(),
            "python": platform.python_version(),
            "jax": jax.__version__,
        },
    }


def case(
    options: argparse.Namespace,
    engine: PlanEngine,
    system: tuple[int, ...],
    rng: np.random.Generator,
    beside: bool,
) -> list[float]:
    """Milliseconds of the short requests, from the moment that each was meant to be sent."""
    ended = threading.Event()

    def prompt(tokens: int) -> tuple[int, ...]:
        return (*system, *rng.integers(0, 300, tokens - len(system)).tolist())

    def keep_one_long_prompt_busy() -> None:
        while not ended.is_set():
            engine.submit(PlanRequest(prompt(options.long))).result()

    thread = threading.Thread(target=keep_one_long_prompt_busy)
    if beside:
        thread.start()
    times, waiting = list[float](), []
    at = time.monotonic()
    end = at + options.seconds
    while at < end:
        time.sleep(max(0.0, at - time.monotonic()))
        future, sent = engine.submit(PlanRequest(prompt(options.short))), at
        future.add_done_callback(lambda _, sent=sent: times.append(1e3 * (time.monotonic() - sent)))
        waiting.append(future)
        at += rng.exponential(1 / options.rate)
    for future in waiting:
        future.result()
    ended.set()
    if beside:
        thread.join()
    return times


def small_model(folder: Path) -> Path:
    """A random Qwen3 of two layers of 64 with enough positions."""
    rows = list(simulate_rows(40, seed=1))
    texts = list(training_texts(rows, PromptTemplate.load("compact_zh"), IntentLibrary.load()))
    write_tiny_checkpoint(
        folder / "hf", texts, vocab_size=768, hidden_size=64, layers=2, heads=2, kv_heads=1,
        head_dim=32, intermediate_size=192,
    )  # fmt: skip
    config = json.loads((folder / "hf" / "config.json").read_text())
    config["max_position_embeddings"] = 4 * 4096
    (folder / "hf" / "config.json").write_text(json.dumps(config))
    convert_checkpoint(folder / "hf", folder / "model")
    return folder / "model"


if __name__ == "__main__":
    main()
