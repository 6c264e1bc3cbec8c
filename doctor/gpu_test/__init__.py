"""Runs the GPU smoke test of `celora doctor --gpu`."""
