"""What a migration does to those who use the database meanwhile: its locks, and what it reads.

A lock that keeps others from writing may be taken for as long as the catalogue is written, so no
row of that table may be read or written under it. Nor may a transaction write many rows, which
would be locked until its end. What runs outside of a transaction must be made for that.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event

STRONG = "ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"
OUTSIDE = re.compile(
    r"((SET|SHOW) lock_timeout|CREATE (UNIQUE )?INDEX CONCURRENTLY|DROP INDEX CONCURRENTLY"
    r"|ALTER TABLE \S+ VALIDATE CONSTRAINT|REINDEX \w+ CONCURRENTLY)\b"
)
SMALL = (
    *("alembic_version", "currencies", "ledgers", "principals", "api_keys", "grants"),
    *("account_grants", "webhooks", "webhook_secrets"),
)
"""Tables whose rows people add one by one, so that all are read within a millisecond."""
TABLES = f"""
SELECT c.oid::int, c.relname, c.relfilenode::int,
       coalesce(seq_scan, 0) + coalesce(idx_scan, 0),
       coalesce(n_tup_upd, 0) + coalesce(n_tup_del, 0)
FROM pg_class c LEFT JOIN pg_stat_xact_user_tables s ON s.relid = c.oid
WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'r'
  AND c.relname NOT IN {SMALL}
"""
LOCKED = f"""
SELECT DISTINCT relation::int FROM pg_locks
WHERE pid = pg_backend_pid() AND granted AND mode IN {STRONG} AND relation IS NOT NULL
"""


class Locks:
    """What was found wrong with the transactions of an engine, while it is `watched`."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._tables: dict[int, tuple[Any, ...]] = {}

    def begin(self, connection: Connection) -> None:
        """A transaction begins: which tables are there, and what this session has read."""
        self._tables = {row[0]: tuple(row) for row in _ask(connection, TABLES)}

    def commit(self, connection: Connection) -> None:
        """It is about to end."""
        before, self._tables = self._tables, {}
        if not before or is_outside(connection):
            return
        locked = {row[0] for row in _ask(connection, LOCKED)}
        for oid, name, file, reads, writes in _ask(connection, TABLES):
            if oid not in before:
                continue
            *_, old_file, old_reads, old_writes = before[oid]
            if file != old_file:
                self.faults.append(f"{name} is written anew")
            if oid in locked and reads > old_reads:
                self.faults.append(f"{name} is read while nobody can write it")
            if writes > old_writes:
                self.faults.append(f"rows of {name} are changed")

    def execute(self, connection: Connection, statement: str) -> None:
        """A statement is about to run."""
        if is_outside(connection) and not OUTSIDE.match(statement):
            self.faults.append(f"outside of a transaction: {statement}")


def _ask(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    driver: Any = connection.connection.driver_connection
    rows: list[tuple[Any, ...]] = driver.execute(query).fetchall()
    return rows


def is_outside(connection: Connection) -> bool:
    """Whether what runs is in no transaction."""
    driver: Any = connection.connection.driver_connection
    return bool(driver.autocommit)


@contextmanager
def watched(engine: Engine) -> Iterator[Locks]:
    """Meanwhile every transaction of the engine is judged."""
    locks = Locks()

    def before_execute(connection: Connection, _c: Any, statement: str, *_: Any) -> None:
        locks.execute(connection, statement)

    event.listen(engine, "begin", locks.begin)
    event.listen(engine, "commit", locks.commit)
    event.listen(engine, "before_cursor_execute", before_execute)
    yield locks
    event.remove(engine, "begin", locks.begin)
    event.remove(engine, "commit", locks.commit)
    event.remove(engine, "before_cursor_execute", before_execute)
