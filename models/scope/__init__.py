"""Limits sessions to the rows of one tenant."""
