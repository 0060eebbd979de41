"""Baselines: what a planner has to beat."""
