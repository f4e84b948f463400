"""What the schema in a database holds: its tables, sequences and triggers, from the catalogue."""

from graphlib import TopologicalSorter
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import Connection, text


class StoredTable(NamedTuple):
    """The columns of a table that are stored, not generated, and its size in bytes."""

    columns: tuple[str, ...]
    size_bytes: int


class Trigger(NamedTuple):
    """A trigger of ours, and its state: O, A, R or D, as in pg_trigger.tgenabled."""

    table: str
    name: str
    state: str


def driver(connection: Connection) -> "psycopg.Connection[Any]":
    """The connection of psycopg, in the same transaction, for COPY."""
    wrapped = connection.connection.driver_connection
    assert isinstance(wrapped, psycopg.Connection)
    return wrapped


def stored_tables(connection: Connection) -> dict[str, StoredTable]:
    """The tables of the schema by name, without Alembic's. A table comes after those that its
    foreign keys refer to.
    """
    rows = connection.execute(_TABLES)
    tables = {row.name: StoredTable(tuple(row.columns), row.size) for row in rows}
    order = TopologicalSorter({name: set[str]() for name in sorted(tables)})
    for row in connection.execute(_REFERENCES):
        order.add(row.name, row.referenced)
    return {name: tables[name] for name in order.static_order() if name in tables}


def sequences(connection: Connection) -> list[str]:
    """The names of the schema's sequences."""
    return list(connection.scalars(_SEQUENCES))


def triggers(connection: Connection) -> list[Trigger]:
    """The triggers on the schema's tables, without those of foreign keys."""
    return [Trigger(*row) for row in connection.execute(_TRIGGERS)]


def plain_indexes(connection: Connection) -> list[tuple[str, str]]:
    """The indexes that belong to no constraint: their names and definitions, in SQL."""
    return [(row.name, row.definition) for row in connection.execute(_INDEXES)]


def last_transaction_id(connection: Connection) -> int:
    """The largest id of a transaction; 0 if there is none."""
    return int(connection.scalar(_LAST_TRANSACTION_ID) or 0)


def trial_balance(connection: Connection) -> list[tuple[Any, ...]]:
    """Of each ledger and currency: ids, the number of accounts, and the sums of their negative and
    positive balances and of what is held, as text.
    """
    return [tuple(row) for row in connection.execute(_TRIAL_BALANCE)]


def is_empty(connection: Connection) -> bool:
    """Whether there is no schema, or one with nothing in it."""
    return not connection.scalar(_OCCUPIED)


_TABLES = text("""
SELECT c.relname AS name, array_agg(a.attname::text ORDER BY a.attnum) AS columns,
       pg_table_size(c.oid) AS size
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'p')
  AND c.relname <> 'alembic_version'
  AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
GROUP BY c.oid, c.relname
""")
_REFERENCES = text("""
SELECT t.relname AS name, r.relname AS referenced
FROM pg_constraint JOIN pg_class t ON t.oid = conrelid JOIN pg_class r ON r.oid = confrelid
WHERE connamespace = 'ledger'::regnamespace AND contype = 'f' AND conrelid <> confrelid
""")
_SEQUENCES = text("""
SELECT relname::text FROM pg_class
WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'S' ORDER BY 1
""")
_TRIGGERS = text("""
SELECT c.relname::text, t.tgname::text, t.tgenabled::text
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = 'ledger'::regnamespace AND NOT t.tgisinternal
ORDER BY 1, 2
""")
_INDEXES = text("""
SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = 'ledger'::regnamespace
  AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)
ORDER BY 1
""")
_LAST_TRANSACTION_ID = text("""
SELECT max(last.id) FROM ledger.ledgers l
CROSS JOIN LATERAL (
    SELECT id FROM ledger.transactions
    WHERE ledger_id = l.ledger_id ORDER BY ledger_id DESC, id DESC LIMIT 1) last
""")
_TRIAL_BALANCE = text("""
SELECT ledger_id, currency, count(*), sum(greatest(-balance, 0))::text,
       sum(greatest(balance, 0))::text, sum(held)::text
FROM ledger.accounts GROUP BY ledger_id, currency ORDER BY ledger_id, currency
""")
_OCCUPIED = text("""
SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('ledger'))
    OR EXISTS (SELECT FROM pg_proc WHERE pronamespace = to_regnamespace('ledger'))
""")
