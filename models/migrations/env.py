"""Alembic's environment; ``schema`` hands it an open connection, it is never run from Alembic's own command."""

from alembic import context
from sqlalchemy import Connection, MetaData

connection: Connection = context.config.attributes["connection"]
metadata: MetaData = context.config.attributes["metadata"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
