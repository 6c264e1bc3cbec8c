"""Contains the machine learning without Celery, SQL and HTTP; a notebook can use it."""
