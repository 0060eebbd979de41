"""Arms by name, one frame and one training loop for those with a network; above floors/."""
