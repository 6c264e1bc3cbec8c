"""The machine learning: no Celery, no SQL and no HTTP in it; usable from a notebook."""
