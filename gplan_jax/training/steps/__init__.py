"""The pure step and what it is built from: config, model, rows, objective, optimizer."""
