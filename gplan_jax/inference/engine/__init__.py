"""The decoder and its engine: prompts in, tokens out; it touches the grammar and models."""
