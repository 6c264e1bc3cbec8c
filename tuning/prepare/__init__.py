"""Turns rows into prepared arrays and the receipt."""
