"""Runs the processes of one machine: `celora up` and `celora node`."""
