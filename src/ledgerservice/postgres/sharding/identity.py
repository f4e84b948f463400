"""Which shard of which directory a database is, so that one that was named wrongly is not used."""

from typing import Any, NamedTuple

import psycopg
from sqlalchemy import Connection, text

from ledgerservice.errors import WrongDatabase
from ledgerservice.postgres.reader import Reader

MAIN = "main"
"""The shard that is the directory too: the database of DATABASE_URL."""


class Identity(NamedTuple):
    """A directory's number, and the name of one of its shards."""

    directory: str
    shard: str


READ_IDENTITY = "SELECT directory::text, shard FROM ledger.identity"


def fault_of(rows: list[tuple[Any, ...]], expected: Identity) -> WrongDatabase | None:
    """The fault of a connection by the rows of READ_IDENTITY, or None."""
    if not rows:
        return WrongDatabase(f"It has not been added as the shard {expected.shard}.")
    present = Identity(*rows[0])
    if present == expected:
        return None
    if present.directory != expected.directory:
        return WrongDatabase(f"It is the shard {present.shard} of another service.")
    return WrongDatabase(f"It is the shard {present.shard}, not {expected.shard}.")


async def check(
    connection: "psycopg.AsyncConnection[Any]", statement: str, expected: Identity
) -> None:
    """Raise WrongDatabase for a new connection to another database than the expected one.

    `statement` is READ_IDENTITY in the schema of the database.
    """
    rows = await (await connection.execute(statement)).fetchall()
    fault = fault_of(rows, expected)
    if fault is not None:
        await connection.close()
        raise fault


async def find_identity(reader: Reader) -> Identity | None:
    """What the database of a reader says it is."""
    rows: list[Any] = await reader.rows(text(READ_IDENTITY))
    return Identity(*rows[0]) if rows else None


_IS_THERE = text("SELECT to_regclass('ledger.identity') IS NOT NULL")


def identity_of(connection: Connection) -> Identity | None:
    """What a database says it is; None if it has never been a part of several."""
    if not connection.scalar(_IS_THERE):  # no schema, or that of an earlier release
        return None
    row = connection.execute(text(READ_IDENTITY)).one_or_none()
    return None if row is None else Identity(*row)
