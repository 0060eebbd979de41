"""Public reasoning tasks, generated from their published descriptions and checked row by row."""
