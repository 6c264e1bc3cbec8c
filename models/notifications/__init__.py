"""Keeps who is notified of what, and the deliveries that are due."""
