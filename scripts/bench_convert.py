"""Converts and exports a random Qwen3-1.7B-shaped checkpoint; prints one JSON line of figures.

    python scripts/bench_convert.py [--directory FOLDER_WITH_12_GB]

Both steps run as the commands a user types, each in its own process, whose peak memory is that of
the operating system's account. All tensors are then compared byte for byte.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gplan_jax.foundation.files import write_json
from gplan_jax.models.checkpoints.hugging_face import (
    LazyTensor,
    rules,
    stored_tensors,
    write_sharded,
)
from gplan_jax.models.qwen3.config import Qwen3Config

QWEN3_1_7B = Qwen3Config(
    vocab_size=151_936,
    hidden_size=2048,
    intermediate_size=6144,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=True,
)
SHARD_BYTES = 2_000_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", help="where the checkpoints lie while it runs")
    with tempfile.TemporaryDirectory(dir=parser.parse_args().directory) as name:
        print(json.dumps(run(Path(name))))


def run(folder: Path) -> dict[str, Any]:
    source, model, back = folder / "source", folder / "model", folder / "back"
    make_checkpoint(source, QWEN3_1_7B)
    convert_seconds, convert_peak = measure("convert", source, "--out", model, "--latents", "none")
    export_seconds, export_peak = measure("export", model, "--out", back)
    before, after = stored_tensors(source), stored_tensors(back)
    equal = before.keys() == after.keys() and all(
        before[name].read().tobytes() == after[name].read().tobytes() for name in before
    )
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    return {
        "benchmark": "convert_export_qwen3_1_7b_shape",
        "checkpoint_gb": round(size / 1e9, 2),
        "tensors": len(before),
        "tensors_equal": equal,
        "convert_seconds": round(convert_seconds, 1),
        "convert_peak_gib": round(convert_peak, 2),
        "export_seconds": round(export_seconds, 1),
        "export_peak_gib": round(export_peak, 2),
        "ran_on": f"{os.cpu_count()} CPU cores ({processor()}), Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("jax", "orbax-checkpoint", "numpy")},
    }


def make_checkpoint(directory: Path, config: Qwen3Config) -> None:
    """Writes random bfloat16 weights under Hugging Face names, one tensor in memory at a time."""
    directory.mkdir()
    write_json(directory / "config.json", config.to_hf() | {"dtype": "bfloat16"})
    tensors = [
        LazyTensor(
            tensor,
            np.dtype(ml_dtypes.bfloat16),
            rule.tensor_shape(config),
            functools.partial(random_weights, tensor, rule.tensor_shape(config)),
        )
        for rule in rules(config)
        for tensor in rule.names(config)
    ]
    for _ in write_sharded(directory, tensors, shard_bytes=SHARD_BYTES):
        pass


def random_weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers with the spread of trained weights, a pure function of the name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    wide = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
    # The upper half of a float32 is a bfloat16, rounded towards zero.
    return np.ascontiguousarray(wide.view(np.uint16)[..., 1::2]).view(ml_dtypes.bfloat16)


def measure(*arguments: str | Path) -> tuple[float, float]:
    """Runs a gplan command; returns its seconds and its peak resident memory in GiB."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "gplan_jax.cli.main", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"gplan {arguments[0]} failed")
    kibibytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return time.perf_counter() - start, kibibytes / 2**20


def processor() -> str:
    """The CPU's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
