"""T5 in Flax, and beam search under a library's plan rules; of fitting/ and rows/ alone."""
