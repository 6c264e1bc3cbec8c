"""Holds the engines, which train one step at a time."""
