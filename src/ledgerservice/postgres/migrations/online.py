"""What a revision does outside of a transaction, while others read and write."""

from alembic import op


def run_outside(*statements: str) -> None:
    """Run statements of a revision that may take long, each by itself and without a transaction.

    They must be such that others read and write meanwhile, and that can be run again. What the
    revision did before is committed, and is done again if the process ends meanwhile: so a change
    that cannot be made twice is a revision of its own. In a restore, where nobody else is, the
    statements run in its transaction, without CONCURRENTLY.
    """
    context = op.get_context()
    assert context.environment_context is not None
    if context.environment_context.config.attributes["in_transaction"]:
        for statement in statements:
            op.get_bind().exec_driver_sql(statement.replace(" CONCURRENTLY", ""))
        return
    with context.autocommit_block():
        connection = op.get_bind()
        limit = connection.exec_driver_sql("SHOW lock_timeout").scalar()
        # They wait for transactions that are open, and nobody waits for them.
        connection.exec_driver_sql("SET lock_timeout = 0")
        try:
            for statement in statements:
                connection.exec_driver_sql(statement)
        finally:
            connection.exec_driver_sql(f"SET lock_timeout = '{limit}'")


def create_index(name: str, definition: str) -> None:
    """Make the index `name` of the ledger's schema; `definition` begins with ON or UNIQUE ON."""
    unique = "UNIQUE " * definition.startswith("UNIQUE ")
    run_outside(
        # A try that was ended has left one that is not valid.
        f"DROP INDEX CONCURRENTLY IF EXISTS ledger.{name}",
        f"CREATE {unique}INDEX CONCURRENTLY {name} {definition.removeprefix('UNIQUE ')}",
    )
