"""Serves celora's own routes."""
