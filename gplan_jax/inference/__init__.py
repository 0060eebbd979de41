"""From prompts to plans: batched greedy decoding and the planner around it."""
