"""Runs a training: controls its steps, writes its checkpoints and resumes it."""
