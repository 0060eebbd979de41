"""HTTP parts that all servers share: bodies, errors, metrics, limits; independent of the task."""
