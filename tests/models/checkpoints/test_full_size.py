"""A Qwen3-1.7B-shaped checkpoint goes through conversion and export within 8 GiB of memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "bench_convert.py"


@pytest.mark.slow
def test_a_full_size_checkpoint_round_trips_exactly_in_little_memory(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--directory", str(tmp_path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures = json.loads(done.stdout)
    assert figures["checkpoint_gb"] > 3.4
    assert figures["tensors_equal"] is True
    assert figures["convert_peak_gib"] < 8
    assert figures["export_peak_gib"] < 8
