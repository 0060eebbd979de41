"""GPlan in JAX: turn a Qwen3 checkpoint and user-context rows into a real-time planner.

docs/architecture.md says what each room is for and what it may import.
"""

__version__ = "0.2.0.dev0"
