"""Plans scored without labels, by rules or through chat/ by a language model."""
