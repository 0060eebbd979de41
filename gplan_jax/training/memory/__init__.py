"""Memory plans: the real step compiled ahead of time, and what a device must hold and do for it."""
