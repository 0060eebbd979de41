"""Arms fitted alike and compared on the same rows: may use baselines, training and significance."""
