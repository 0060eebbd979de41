"""Converts a Hugging Face Qwen3 checkpoint, for jobs that call a file: ``gplan convert``.

python scripts/convert_qwen3.py Qwen3-1.7B --out models/qwen3-1.7b
"""

from __future__ import annotations

import sys

from gplan_jax.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["convert"]
    main()
