"""Memory plans: a run's step compiled ahead of time. Uses steps and the mesh, runs nothing."""
