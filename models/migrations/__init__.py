"""Migrates the record with Alembic, by migrations that the package ships."""
