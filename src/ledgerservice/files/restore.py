"""Restore: an archive's rows, loaded by our own statements into a schema that we made."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import Connection, text

from ledgerservice.errors import BackupError, BackupNotSound
from ledgerservice.files.archive import Archive, TableRecord, Totals
from ledgerservice.files.backup import Report, totals
from ledgerservice.postgres import contents, migrations
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.contents import Trigger, driver
from ledgerservice.postgres.epochs import RECOVER_EPOCH
from ledgerservice.postgres.verification import verify

SHOWN_VIOLATIONS = 20


@contextmanager
def checked_file(path: Path, report: Report) -> Iterator[Archive]:
    """The archive in a file, after all of it has been read and checked. Raises BackupError."""
    try:
        source = path.open("rb")
    except OSError as error:
        raise BackupError(f"{path}: {error.strerror}.") from None
    with source:
        archive = Archive(source)
        if not migrations.is_known(archive.manifest.revision):
            raise BackupError(
                f"It is of the schema's revision {archive.manifest.revision!a}, which this release "
                "does not know. Use the release that wrote it, or a newer one."
            )
        done = 0
        for table in archive.manifest.tables:
            for chunk in archive.read(table):
                done += len(chunk)
                report("Checking the file", done, archive.size_bytes)
        yield archive


def _nothing_more(_connection: Connection) -> None:
    pass


def restore(
    database: Database,
    archive: Archive,
    report: Report,
    loaded: Callable[[Connection], None] = _nothing_more,
) -> None:
    """Load an archive into a database without a ledger, bring it up to date, and verify it.

    One database transaction: it is restored completely, or not at all. A new epoch of the feed
    begins, because what was recorded after the backup is not there. `loaded` is called in it
    when the rows are as in the archive. Raises BackupError, and BackupNotSound with the violations
    if the ledger in the archive does not hold.
    """
    settings = database.settings
    schema, role = settings.schema_name, settings.service_role or None
    with (
        database.owner_engine().connect() as connection,
        migrations.locked(connection),
        connection.begin(),
    ):
        if not contents.is_empty(connection):
            raise BackupError(
                f"The database has a ledger already, or something else in the schema {schema}. "
                "Restore into an empty one."
            )
        migrations.create(connection, schema, archive.manifest.revision)
        _check_names(connection, archive)
        with _refusals(), _without_triggers(connection, schema), _without_indexes(connection):
            _load(connection, schema, archive, report)
        loaded(connection)
        loaded_totals = totals(connection)  # a migration may add accounts
        migrations.bring_up_to_date(connection, role, schema, database.login)
        connection.execute(text("SELECT ledger.set_fences()"))
        pause_webhooks(connection, schema)
        connection.exec_driver_sql(RECOVER_EPOCH)
        _analyze(connection, schema)
        _verify(connection, schema, report)
        _check_totals(loaded_totals, archive)


def _check_names(connection: Connection, archive: Archive) -> None:
    """Tables, columns and sequences are those of the schema. So no name out of the file gets into a
    statement that is not a name of ours.
    """
    tables, records = contents.stored_tables(connection), archive.manifest.tables
    expected = {(name, column) for name, table in tables.items() for column in table.columns}
    described = [(name, column) for name, table in records.items() for column in table.columns]
    if sorted(described) != sorted(expected) or records.keys() != tables.keys():
        strange = [".".join(name) for name in sorted({*described} ^ expected)]
        strange += sorted({*records} ^ {*tables}) or ["a column is there twice"]
        raise BackupError(f"Its tables are not those of the schema: {strange[0]!a}.")
    if sorted(archive.manifest.sequences) != contents.sequences(connection):
        raise BackupError("Its sequences are not those of the schema.")


@contextmanager
def _without_triggers(connection: Connection, schema: str) -> Iterator[None]:
    """Our triggers do not fire meanwhile, and end in the state that each had. Foreign keys hold.

    DISABLE TRIGGER ALL would need a superuser, and ENABLE TRIGGER ALL loses the states.
    """
    triggers = [trigger for trigger in contents.triggers(connection) if trigger.state != "D"]
    for trigger in triggers:
        _set_trigger(connection, schema, trigger, "DISABLE")
    yield
    for trigger in triggers:
        _set_trigger(connection, schema, trigger, _ENABLE[trigger.state])


_ENABLE = {"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}


def _set_trigger(connection: Connection, schema: str, trigger: Trigger, how: str) -> None:
    template = sql.SQL("ALTER TABLE {} {} TRIGGER {}")
    table, name = sql.Identifier(schema, trigger.table), sql.Identifier(trigger.name)
    driver(connection).execute(template.format(table, sql.SQL(how), name))


@contextmanager
def _without_indexes(connection: Connection) -> Iterator[None]:
    """Indexes that belong to no constraint are built after the rows, which takes less time."""
    indexes = contents.plain_indexes(connection)
    for name, _ in indexes:
        driver(connection).execute(f"DROP INDEX {name}".encode())
    yield
    for _, definition in indexes:
        driver(connection).execute(definition.encode())


@contextmanager
def _refusals() -> Iterator[None]:
    """Rows that PostgreSQL refuses, as a fault of the file. Its context would repeat the row."""
    try:
        yield
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        place = re.search(r"COPY \w+, line \d+(, column \w+)?", error.diag.context or "")
        where = f"{place[0]}: " if place else ""
        raise BackupError(f"{where}{error.diag.message_primary or error}.") from None


def _load(connection: Connection, schema: str, archive: Archive, report: Report) -> None:
    tables = contents.stored_tables(connection)
    listed = sql.SQL(", ").join(sql.Identifier(schema, name) for name in tables)
    # The first rows that the schema comes with are in the file too.
    driver(connection).execute(sql.SQL("TRUNCATE {}").format(listed))
    done = 0
    for name in tables:
        record = archive.manifest.tables[name]
        with driver(connection).cursor() as cursor:
            with cursor.copy(_copy_statement(schema, name, record)) as rows:
                for chunk in archive.read(name):
                    rows.write(chunk)
                    done += len(chunk)
                    report("Loading", done, archive.size_bytes)
            if cursor.rowcount != record.rows:
                raise BackupError(
                    f"Table {name} has {cursor.rowcount} rows; the manifest says {record.rows}."
                )
    for name, state in archive.manifest.sequences.items():
        values = (sql.Identifier(schema, name).as_string(), state.last_value, state.is_called)
        driver(connection).execute("SELECT setval(%s::regclass, %s, %s)", values)
        _raise_sequence(connection, schema, name)


def _check_totals(present: Totals, archive: Archive) -> None:
    expected = archive.manifest.totals
    if expected in {None, present}:
        return
    if expected.last_transaction_id != present.last_transaction_id:
        raise BackupError(
            f"Its last transaction is {present.last_transaction_id}; the manifest says "
            f"{expected.last_transaction_id}."
        )
    raise BackupError("Its trial balance is not that of the manifest.")


def _copy_statement(schema: str, name: str, record: TableRecord) -> sql.Composed:
    # The table was made by this transaction, so its rows can be frozen: nothing rewrites them.
    columns = sql.SQL(", ").join(map(sql.Identifier, record.columns))
    target = sql.Identifier(schema, name)
    return sql.SQL("COPY {} ({}) FROM STDIN WITH (FREEZE)").format(target, columns)


NUMBERED = {
    "account_id": (("accounts", "id"),),
    "currency_number": (("currencies", "number"),),
    "ledger_id": (("ledgers", "ledger_id"),),
    "transaction_id": (
        ("transactions", "id"),
        ("accounts", "change_id"),
        ("ledgers", "change_id"),
        ("currencies", "change_id"),
    ),
    "webhook_id": (("webhooks", "id"),),
    "webhook_delivery_id": (("webhook_deliveries", "id"),),
    "principal_id": (("principals", "id"), ("oidc_principals", "id")),
    "proposal_id": (("proposals", "id"),),
    "grant_id": (("grants", "id"), ("account_grants", "id")),
}
"""The columns that get their values from each sequence."""


def _raise_sequence(connection: Connection, schema: str, name: str) -> None:
    """Put a sequence that stands behind its rows ahead of them, so that no number comes twice."""
    used = sql.SQL(", ").join(
        sql.SQL("(SELECT max({}) FROM {})").format(
            sql.Identifier(column), sql.Identifier(schema, table)
        )
        for table, column in NUMBERED[name]
    )
    statement = sql.SQL(
        "SELECT setval({name}::regclass, used) FROM (SELECT greatest({used}) AS used) r, {sequence}"
        " WHERE used >= last_value + CASE WHEN is_called THEN (SELECT seqincrement FROM pg_sequence"
        " WHERE seqrelid = {name}::regclass) ELSE 0 END"
    )
    sequence = sql.Identifier(schema, name)
    quoted = sql.Literal(sequence.as_string())
    driver(connection).execute(statement.format(name=quoted, used=used, sequence=sequence))


def pause_webhooks(connection: Connection, schema: str) -> None:
    """A copy must not send to the endpoints of the original, which may still be running."""
    template = sql.SQL(
        "UPDATE {} SET state = 'paused', reason = 'restored', revision = revision + 1"
        " WHERE state = 'active'"
    )
    driver(connection).execute(template.format(sql.Identifier(schema, "webhooks")))


def _analyze(connection: Connection, schema: str) -> None:
    """Count the rows, for the plans of `verify` and of the service."""
    for name in contents.stored_tables(connection):
        driver(connection).execute(sql.SQL("ANALYZE {}").format(sql.Identifier(schema, name)))


def _verify(connection: Connection, schema: str, report: Report) -> None:
    violations = verify(connection, lambda done, of: report("Verifying", done, of), schema)
    shown = [str(violation) for violation in islice(violations, SHOWN_VIOLATIONS)]
    if shown:
        count = len(shown) + sum(1 for _ in violations)
        raise BackupNotSound(shown, count)
