"""Plans, and reasons for plans, by a service's rules.yaml."""
