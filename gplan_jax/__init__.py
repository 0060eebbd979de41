"""GPlan in JAX: turn a Qwen3 checkpoint and user-context rows into a real-time planner.

Rooms, from the ground up: ``foundation``, ``objectives``, ``models``, ``reasoning``, ``gsisr``,
``chat``, ``data``, ``baselines``, ``synthesis``, ``training``, ``inference``, ``evaluation``,
``serving``, ``quickstart``, ``cli``.
A room imports only from rooms below it; docs/architecture.md draws the house.
"""

__version__ = "0.1.0"
