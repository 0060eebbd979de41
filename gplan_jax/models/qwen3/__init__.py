"""The language model: its shape, its passes, what they keep, its adapters; no files."""
