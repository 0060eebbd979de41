"""The simulated world: users, their orders and histories, and the faults of raw answers."""
