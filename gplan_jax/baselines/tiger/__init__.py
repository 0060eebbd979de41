"""TIGER: an encoder-decoder that writes plans in codes; on t5/, fitting/ and rows/."""
