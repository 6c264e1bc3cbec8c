"""The Celery app, queues, GPU pinning, leases, trainer supervision, the embedded broker."""
