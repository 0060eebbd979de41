"""Language models as teachers: their prompt, how their replies are read, and who is asked."""
