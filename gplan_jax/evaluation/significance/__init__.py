"""Which differences between arms hold, and what the metrics reward: over ids, from scores alone."""
