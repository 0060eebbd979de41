"""The plan grammar in a model's tokens, drafts along it, grammar files for other servers."""
