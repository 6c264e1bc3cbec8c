"""Contains the trainer program that a worker starts: `python -m celora.tuning.trainer`."""
