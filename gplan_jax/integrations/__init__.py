"""Plugs for engines of many machines, each an extra: Ray and Spark run what one machine runs."""
