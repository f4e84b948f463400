"""Backup: every row of the ledger, in one snapshot, into an archive."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psycopg
from psycopg import sql
from sqlalchemy import Connection, Engine, text

from ledgerservice.errors import BackupError
from ledgerservice.files.archive import (
    CHUNK_BYTES,
    FORMAT,
    Archive,
    Manifest,
    SequenceRecord,
    TableRecord,
    Totals,
    TrialBalance,
    Writer,
)
from ledgerservice.postgres import contents, migrations, tables
from ledgerservice.postgres.contents import StoredTable, driver

Report = Callable[[str, int, int], None]
"""Shows progress: what is being done, the amount done, and the amount of all."""


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, at `path` once it is complete and on the disk; only its owner can read it.

    Raises BackupError if the file exists, or another process writes it.
    """
    part = path.with_name(path.name + ".part")
    if path.exists():
        raise BackupError(f"{path} exists already; choose another name.")
    with writable(part):
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with writable(part), os.fdopen(descriptor, "w+b") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        part.replace(path)
        _flush_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def writable(name: Path | str) -> Iterator[None]:
    """A disk that is full, and the like, as a BackupError that names the file."""
    try:
        yield
    except FileExistsError:
        raise BackupError(
            f"{name} exists: another backup writes it, or did not finish. Remove it, or choose "
            "another name."
        ) from None
    except OSError as error:
        raise BackupError(f"{name}: {error.strerror or error}.") from None


def _forget_pages(descriptor: int) -> None:
    """Let the next read come from the disk instead of memory."""
    if hasattr(os, "posix_fadvise"):  # macOS has none
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def read_back(file: IO[bytes]) -> None:
    """Read a backup that was written to `file` back from the disk.

    Raises BackupError if it is not whole, or not as its manifest says.
    """
    file.flush()
    os.fsync(file.fileno())
    _forget_pages(file.fileno())
    file.seek(0)
    archive = Archive(file)
    for table in archive.manifest.tables:
        for _ in archive.read(table):
            pass


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def backup(engine: Engine, schema: str, target: IO[bytes], report: Report) -> None:
    """Write the ledger to `target`. Everything is read in one snapshot, so the service may run.

    `engine` connects as the owner. Raises SchemaMissing and BackupError.
    """
    options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with engine.connect().execution_options(**options) as connection:
        names = _lock(connection, schema)
        revision = migrations.known_revision(connection)
        stored = contents.stored_tables(connection)
        _check_tables(names, revision, stored)
        with Writer(target) as writer:
            records = dict(_write(connection, schema, stored, writer, report))
            version, started_at = connection.execute(_FACTS).one()
            # A sequence has no snapshot. Read last, it is ahead of every row.
            states, system = _sequences(connection, schema), _system_identifier(connection)
            facts = FORMAT, revision, version, started_at, system, records, states
            writer.finish(Manifest(*facts, totals(connection)))


def _lock(connection: Connection, schema: str) -> list[str]:
    """Keep the tables from being altered. The lock comes before the snapshot, which would else
    show a table that was rewritten meanwhile as empty.
    """
    migrations.known_revision(connection)
    names = list(contents.stored_tables(connection))
    connection.rollback()
    listed = sql.SQL(", ").join(sql.Identifier(schema, name) for name in names)
    driver(connection).execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(listed))
    return names


def _check_tables(names: list[str], revision: str, stored: dict[str, StoredTable]) -> None:
    """Refuse now what could not be restored later."""
    if names != list(stored):
        raise BackupError("The schema was altered meanwhile. Try again.")
    if revision != migrations.HEAD:
        return
    ours = {(t.name, c.name) for t in tables.metadata.tables.values() for c in t.columns}
    present = {(name, column) for name, table in stored.items() for column in table.columns}
    if present - ours:
        table, column = min(present - ours)
        raise BackupError(
            f"{table}.{column} is not part of the ledger. Move it out of the ledger's schema."
        )


def _write(
    connection: Connection,
    schema: str,
    stored: dict[str, StoredTable],
    writer: Writer,
    report: Report,
) -> Iterator[tuple[str, TableRecord]]:
    done, total = 0, sum(table.size_bytes for table in stored.values())
    for name, table in stored.items():

        def progress(size: int, done: int = done, limit: int = table.size_bytes) -> None:
            report("Writing", done + min(size, limit), total)

        with driver(connection).cursor() as cursor:
            chunks = _rows(cursor, copy_statement(schema, name, table.columns), progress)
            size_bytes, sha256 = writer.write(name, chunks)
            yield name, TableRecord(table.columns, cursor.rowcount, size_bytes, sha256)
        done += table.size_bytes


def copy_statement(schema: str, name: str, columns: Sequence[str]) -> sql.Composed:
    """The COPY that sends the rows of a table."""
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    source = sql.Identifier(schema, name)
    return sql.SQL("COPY (SELECT {} FROM ONLY {}) TO STDOUT").format(listed, source)


def totals(connection: Connection) -> Totals:
    """What the ledger in the connection's snapshot amounts to."""
    rows = contents.trial_balance(connection)
    return Totals(contents.last_transaction_id(connection), tuple(TrialBalance(*r) for r in rows))


def _rows(
    cursor: "psycopg.Cursor[Any]", statement: sql.Composed, progress: Callable[[int], None]
) -> Iterator[bytes]:
    """The rows that a COPY sends, in chunks."""
    size = 0
    with cursor.copy(statement) as rows:
        for chunk in _joined(rows):
            yield chunk
            size += len(chunk)
            progress(size)


def _joined(rows: Iterable[Any]) -> Iterator[bytes]:
    chunk = bytearray()
    for row in rows:
        chunk += row
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


def _sequences(connection: Connection, schema: str) -> dict[str, SequenceRecord]:
    states = {}
    for name in contents.sequences(connection):
        query = sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(schema, name))
        row = driver(connection).execute(query).fetchone()
        assert row is not None
        states[name] = SequenceRecord(*row)
    return states


def _system_identifier(connection: Connection) -> str | None:
    if not connection.scalar(_MAY_READ_IDENTIFIER):
        return None
    return str(connection.scalar(_IDENTIFIER))


_FACTS = text("SELECT current_setting('server_version_num')::integer, now()")
_MAY_READ_IDENTIFIER = text(
    "SELECT has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')"
)
_IDENTIFIER = text("SELECT system_identifier FROM pg_control_system()")
