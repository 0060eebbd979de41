"""Seeds: triplets of intents, environment and logic that experts have calibrated (section 3.2)."""
