"""What layers compute, as functions of arrays, and how arrays lie over a mesh; no files."""
