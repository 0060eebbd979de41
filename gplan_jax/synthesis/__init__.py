"""Making data: a simulated world, reasoning for given plans, a tiny checkpoint to start from."""
