"""A planner behind HTTP: the app, its limits and metrics, a page to try it."""
