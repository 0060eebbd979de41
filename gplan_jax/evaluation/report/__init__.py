"""The report: one self-contained HTML file made from results directories of `gplan baseline`."""
