"""What a run keeps so that it can go on: its directory, checkpoints and their records, signals."""
