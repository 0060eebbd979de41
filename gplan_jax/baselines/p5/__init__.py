"""P5: text prompts, an encoder-decoder, plans as text; on t5/, fitting/ and rows/."""
