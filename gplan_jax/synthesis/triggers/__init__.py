"""Triggers: rules over event logs that find moments to plan for; touches DuckDB and files."""
