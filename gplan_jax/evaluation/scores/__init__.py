"""Answers of a model scored against labels, beside the floors; tables and learning curves."""
