"""The celora command."""
