"""The Celery tasks and the canvas that chains them."""
