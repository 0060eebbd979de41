"""From contexts to plans: plan grammar, drafts, passes over cached prefixes, engine, planner."""
