"""Runs a claimed stage from its claim to its ending."""
