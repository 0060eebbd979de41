"""The planning server and its page: JSON contexts in, plans out, by an inference engine."""
