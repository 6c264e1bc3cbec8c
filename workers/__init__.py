"""Runs the stages of jobs: the Celery app, queues, GPU pinning, leases, trainer supervision, the embedded broker."""
