"""Alembic's entry: runs on the connection that `ledgerservice.postgres.migrations` hands over."""

from alembic import context

from ledgerservice.postgres.tables import metadata

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    target_metadata=metadata,
    version_table_schema=attributes["schema"],
    include_schemas=True,
)
with context.begin_transaction():
    context.run_migrations()
