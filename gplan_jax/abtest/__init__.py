"""Online experiments: from exposure logs to lifts, and the users that a test needs; on gsisr/."""
