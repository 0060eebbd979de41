"""Arms compared on the same rows: folds by id, equal tuning, seeds and one table."""
