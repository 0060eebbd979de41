"""Pairs of contexts: rows put into another time or place, planned anew by a teacher."""
