"""Implements the ``celora`` command."""
