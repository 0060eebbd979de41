"""Rules that plan with the Amap library for the facts of a row, and explain each intent."""
