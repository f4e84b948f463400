"""Copying rows from one server to another, byte by byte, and proving that they are the same."""

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from sqlalchemy import Connection

from ledgerservice.errors import MoveFault
from ledgerservice.postgres.contents import driver
from ledgerservice.postgres.moving.rows import Part


class Content(NamedTuple):
    """Some rows: their number, and the SHA-256 of their bytes, in order."""

    rows: int
    sha256: str


def copy(source: Connection, target: Connection, schema: str, part: Part) -> int:
    """Copy rows in the target's transaction, and read them back; the number of rows.

    Raises MoveFault if they are not the same.
    """
    with driver(source).cursor() as reading, driver(target).cursor() as writing:
        sent = _send(reading, writing, schema, part)
    present = content_of(target, part.target)
    if sent != present:
        raise MoveFault(
            f"Table {part.table} has {present.rows} rows where the source has {sent.rows}, or "
            "others. Run the command again; if it ends like this again, take the move back."
        )
    return sent.rows


def _send(
    reading: "psycopg.Cursor[Any]", writing: "psycopg.Cursor[Any]", schema: str, part: Part
) -> Content:
    digest = hashlib.sha256()
    columns = sql.SQL(", ").join(map(sql.Identifier, part.columns))
    into = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(schema, part.table), columns
    )
    with writing.copy(into) as target:
        for chunk in _read(reading, part.source):
            digest.update(chunk)
            target.write(chunk)
    return Content(reading.rowcount, digest.hexdigest())


def content_of(connection: Connection, selection: sql.Composed) -> Content:
    """What a query returns."""
    digest = hashlib.sha256()
    with driver(connection).cursor() as cursor:
        for chunk in _read(cursor, selection):
            digest.update(chunk)
        return Content(cursor.rowcount, digest.hexdigest())


def _read(cursor: "psycopg.Cursor[Any]", selection: sql.Composed) -> Iterator[Any]:
    with cursor.copy(sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(selection)) as rows:
        yield from rows
