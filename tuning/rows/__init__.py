"""Reads rows: their format, their fields, their messages."""
