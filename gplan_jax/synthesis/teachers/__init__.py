"""Teachers plan and explain: rules and language models, prompts, replies and examples."""
