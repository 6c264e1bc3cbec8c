"""Estimates memory, time and price of a run, and resolves `auto` settings."""
