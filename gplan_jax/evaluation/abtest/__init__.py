"""A/B tests: from an exposure and click log to a lift, its interval and a verdict (section 5.5)."""
