"""Hugging Face checkpoints and model directories; in models/, only this room touches files."""
