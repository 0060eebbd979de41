"""Pairs of contexts: rows moved to another time or place, each with a teacher's plan."""
