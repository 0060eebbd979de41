"""Seeds: triplets of intents, environment and logic that experts review (section 3.2)."""
