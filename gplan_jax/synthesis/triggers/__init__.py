"""Triggers: rules over raw event logs that find moments of several needs, as rows to plan for."""
