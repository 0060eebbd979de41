"""The report: one self-contained HTML file made from results directories of `gplan baseline`."""

from gplan_jax.evaluation.report.page import write_report
from gplan_jax.evaluation.report.results import Results, read_results

__all__ = ["Results", "read_results", "write_report"]
