"""TIGER: plans as the codes of their intents, one after another, from an encoder-decoder."""
