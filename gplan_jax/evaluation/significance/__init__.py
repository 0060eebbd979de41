"""Which differences between arms hold, and what metrics reward: from scores, without any model."""
