"""Holds the Alembic migrations, one module a version."""
