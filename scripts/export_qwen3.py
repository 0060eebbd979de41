"""Exports a model directory to Hugging Face format, for jobs that call a file: ``gplan export``.

python scripts/export_qwen3.py runs/picd/model --out qwen3-planner-hf
"""

from __future__ import annotations

import sys

from gplan_jax.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["export"]
    main()
