"""The loop around the step and its side effects: the log, evaluations, the reference."""
