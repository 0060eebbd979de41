"""Draws the README's figure of the pipeline: python scripts/draw_pipeline.py [docs/pipeline.svg]"""

from __future__ import annotations

import sys

from gplan_jax.evaluation.scores.pipeline_figure import draw_pipeline

if __name__ == "__main__":
    print(draw_pipeline(sys.argv[1] if len(sys.argv) > 1 else "docs/pipeline.svg"))
