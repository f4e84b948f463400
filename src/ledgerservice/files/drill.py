"""The drill: a backup is restored into a scratch server, and proven equal row by row.

A file that can be read is not a backup until it has been restored. So the drill takes the path of a
real restore, on a server that nobody uses, and removes it. What it has restored it reads back: the
rows of each table must be those of the file, as often as they are there, in any order.
"""

import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import Connection, Engine

from ledgerservice.errors import BackupError
from ledgerservice.files.archive import Archive, Totals
from ledgerservice.files.backup import Report, copy_statement
from ledgerservice.files.restore import checked_file, restore
from ledgerservice.postgres.connections import Database, check_server
from ledgerservice.postgres.contents import driver
from ledgerservice.postgres.urls import parse_url
from ledgerservice.runtime import opened_database
from ledgerservice.settings import Settings

PREFIX = "ledger_drill"


class Proof(NamedTuple):
    """What was proven: the number of tables and of their rows, the totals, and the time that it
    took until a verified ledger was there (RTO), with the start of the server, in seconds.
    """

    tables: int
    rows: int
    totals: Totals | None
    rto_s: float
    compared_s: float


def prove(settings: Settings, file: Path, report: Report) -> Proof:
    """Restore the backup in `file` into a scratch server, compare it, and remove the server.

    The server is an embedded one in a temporary folder, or a new database on the server of
    `settings.scratch_url`. Raises BackupError, and BackupNotSound with the violations.
    """
    begun_s, compared_s = time.monotonic(), 0.0
    with checked_file(file, report) as archive, _scratch(settings) as database:

        def compare(connection: Connection) -> None:
            nonlocal compared_s
            compare_begun_s = time.monotonic()
            compare_rows(connection, database.settings.schema_name, archive, report)
            compared_s = time.monotonic() - compare_begun_s

        check_server(database)
        restore(database, archive, report, compare)
        tables = archive.manifest.tables
        rows = sum(table.rows for table in tables.values())
        needed_s = time.monotonic() - begun_s - compared_s
        return Proof(len(tables), rows, archive.manifest.totals, needed_s, compared_s)


@contextmanager
def _scratch(settings: Settings) -> Iterator[Database]:
    """An empty database that nothing else uses, and that is gone afterwards."""
    # Without a role of the service: on a server that is somebody's, the drill makes none.
    changes: dict[str, object] = {
        "owner_url": None,
        "service_role": "",
        "allow_unsafe_durability": True,
    }
    scratch_url = settings.scratch_url
    with _folder() if scratch_url is None else _database(scratch_url, settings) as place:
        changes |= (
            {"database_url": place} if scratch_url else {"database_url": None, "data_folder": place}
        )
        with opened_database(settings.model_copy(update=changes)) as (database, _):
            yield database


@contextmanager
def _folder() -> Iterator[Path]:
    """A new folder below TMPDIR, which the user that root's PostgreSQL runs as can reach."""
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}-") as name:
        if os.geteuid() == 0:
            Path(name).chmod(0o755)
        yield Path(name) / "data"


@contextmanager
def _database(url: SecretStr, settings: Settings) -> Iterator[SecretStr]:
    """The URL of a new database on the server of `url`."""
    server = parse_url(url.get_secret_value(), "LEDGER_SCRATCH_URL")
    name = f"{PREFIX}_{secrets.token_hex(6)}"
    engine = Database(server, settings).owner_engine()
    _administer(engine, "CREATE DATABASE {} ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0", name)
    try:
        yield SecretStr(server.set(database=name).render_as_string(hide_password=False))
    finally:
        _administer(engine, "DROP DATABASE {} WITH (FORCE)", name)


def _administer(engine: Engine, template: str, name: str) -> None:
    statement = sql.SQL(template).format(sql.Identifier(name))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        driver(connection).execute(statement)


def compare_rows(connection: Connection, schema: str, archive: Archive, report: Report) -> None:
    """Raise BackupError if a table does not have the rows of the file."""
    done = 0
    for name, record in archive.manifest.tables.items():
        statement = copy_statement(schema, name, record.columns)
        with driver(connection).cursor() as cursor, cursor.copy(statement) as rows:
            stored = digest_rows(bytes(row) for row in rows)
        if stored != digest_rows(archive.read(name)):
            raise BackupError(f"Table {name} was restored with other rows than the file has.")
        done += record.size_bytes
        report("Comparing", done, archive.size_bytes)


def digest_rows(chunks: Iterable[bytes]) -> tuple[int, int]:
    """The number of rows, and the sum of their SHA-256: the same in every order of the rows."""
    rows, total, rest = 0, 0, b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        rows += len(lines)
        for line in lines:
            total += int.from_bytes(hashlib.sha256(line).digest())
    return rows + bool(rest), total
