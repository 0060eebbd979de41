"""Processes and devices of a run: start-up, agreement, the mesh. Knows models' axes, no steps."""
