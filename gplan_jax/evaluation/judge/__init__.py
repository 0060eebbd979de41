"""Judging plans without their labels: a rubric, rules or language models, agreement and tables."""
