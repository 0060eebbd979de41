"""Evaluation: offline scores beside the floors, their tables and plots."""
