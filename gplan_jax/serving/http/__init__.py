"""What every server here needs of HTTP: bodies, errors, metrics, limits; it knows no task."""
