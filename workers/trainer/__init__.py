"""Starts and supervises trainer processes."""
