"""Floors: predictors without a network that every planner has to beat; of rows/ alone."""
