"""Finds the adapters that other jobs use."""
