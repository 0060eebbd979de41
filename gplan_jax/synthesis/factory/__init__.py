"""The factory, from contexts to a data set: asks teachers, filters, splits; touches files only."""
