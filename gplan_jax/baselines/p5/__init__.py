"""P5: text prompts, an encoder-decoder, plans as text."""
