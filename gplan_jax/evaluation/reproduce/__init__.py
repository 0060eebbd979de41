"""The paper's tables and claims, run again: arms, their paired tests, a verdict for each claim."""
