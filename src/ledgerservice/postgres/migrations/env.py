"""Alembic's entry: runs on the connection that `ledgerservice.postgres.migrations` hands over."""

from collections.abc import Collection
from typing import Any

from alembic import context

from ledgerservice.postgres.tables import metadata

attributes = context.config.attributes


def _applied(ctx: Any, heads: Collection[Any], **_: Any) -> None:
    """What belongs to a revision, in its transaction."""
    [revision] = heads
    attributes["applied"](ctx.connection, revision)


context.configure(
    connection=attributes["connection"],
    target_metadata=metadata,
    version_table_schema=attributes["schema"],
    include_schemas=True,
    # Its locks are held until it is committed. In a transaction of the caller's all are together.
    transaction_per_migration=True,
    on_version_apply=_applied,  # type: ignore[arg-type]
)
with context.begin_transaction():
    context.run_migrations()
