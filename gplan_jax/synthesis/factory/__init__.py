"""The data factory: contexts go in, a teacher answers, a filter removes, rows come out."""
