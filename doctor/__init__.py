"""Checks an installation, this machine and its GPU for `celora doctor`."""
