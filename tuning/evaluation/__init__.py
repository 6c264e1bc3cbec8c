"""Measures losses, generated answers and metrics of an adapter, and verifies the adapter."""
