"""Who plans and explains: rules and language models, their prompts, replies and examples."""
