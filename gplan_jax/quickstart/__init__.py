"""The whole way on a small simulated world: rows, checkpoint, training, evaluation, plans."""
