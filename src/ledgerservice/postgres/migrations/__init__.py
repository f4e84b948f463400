"""Bringing a database's schema up to date, and the service's role with it.

A release serves a database at its own revision, and at a newer one that is compatible with it. So
a rolling upgrade may migrate while processes of the release before it still serve. Each revision
says in `compatible` whether that release can go on: True, False, or the oldest revision whose
release can, if it takes away what only older ones used. The database keeps the result as a comment
on alembic_version: its revision, and those before it whose releases may serve it.

A revision is a transaction of its own, with what belongs to it. Its locks are short (`locks`).
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import ModuleType

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from ledgerservice.errors import SchemaForeign, SchemaMissing, SchemaUnknown
from ledgerservice.installation import command as command_line
from ledgerservice.postgres import roles
from ledgerservice.postgres.migrations.locks import patiently
from ledgerservice.postgres.pipeline import Request
from ledgerservice.postgres.schema import SCHEMA, SCHEMA_SQL

log = logging.getLogger(__name__)

MIGRATION_LOCK = 0x1ED6E2  # any constant that other programs on the database do not lock
LOCK_POLL_S = 0.1


HEAD = "0016_crossing_validated"
"""The revision that this release expects: that of `schema.sql`."""
COMPATIBLE = "compatible: "
_REVISIONS = (
    f"string_to_array(substr(obj_description('{SCHEMA}.alembic_version'::regclass, 'pg_class'),"
    f" {len(COMPATIBLE) + 1}), ' ')"
)
# The first one named is the revision that the comment was written for.
_SERVES = (
    f"SELECT version_num = '{HEAD}' OR version_num = ({_REVISIONS})[1]"
    f" AND '{HEAD}' = ANY ({_REVISIONS}) FROM {SCHEMA}.alembic_version"
)
IS_READY = Request(f"{_SERVES} WHERE current_setting('transaction_read_only') = 'off'")
"""Whether the database accepts writes and is at a revision that this release serves."""
CURRENT_REVISION = text(f"SELECT version_num FROM {SCHEMA}.alembic_version")
_SCHEMA_EXISTS = text(f"SELECT to_regnamespace('{SCHEMA}')::text")
VERSION_TABLE = text(f"SELECT to_regclass('{SCHEMA}.alembic_version')")


def revision(connection: Connection) -> str | None:
    """The database's revision; None if it has no ledger."""
    if connection.scalar(VERSION_TABLE) is None:
        return None
    number = connection.scalar(CURRENT_REVISION)
    return None if number is None else str(number)


def _revisions() -> ModuleType:
    """Alembic, which most starts do not need: to import it takes a tenth of a start."""
    return import_module("ledgerservice.postgres.migrations.revisions")


def is_known(revision: str) -> bool:
    """Whether this release can bring a schema of this revision up to its own."""
    return revision == HEAD or revision in _revisions().KNOWN


def check(connection: Connection) -> None:
    """Raise an error unless this release serves the schema's revision.

    SchemaMissing: there is none, or an older one. SchemaUnknown: a newer one that is not
    compatible. SchemaForeign: the schema has tables that are not the ledger's.
    """
    present = revision(connection)
    if present is not None and connection.scalar(text(_SERVES)):
        return
    if not connection.scalar(_IS_OURS):
        raise SchemaForeign
    if present is not None and not is_known(present):
        raise SchemaUnknown(f"It is at revision {present}; this release has {HEAD}.")
    raise SchemaMissing(
        f"Run `{command_line('migrate')}`. It is at revision {present or 'none'}; this release "
        f"needs {HEAD}."
    )


def known_revision(connection: Connection) -> str:
    """The database's revision, if this release knows it; else the errors of `check`."""
    present = revision(connection)
    if present is None or not is_known(present):
        check(connection)
    return str(present)


def upgrade(
    engine: Engine, role: str | None, schema: str = SCHEMA, login: roles.Login | None = None
) -> bool:
    """Bring the schema to this release's revision; True if anything changed.

    `role` is the service's, None if it has none, and `login` the member of it that the service
    connects as, None if that is the engine's own user. Both are made if they are missing.

    Each revision is a database transaction, all of them under an advisory lock, so that processes
    that start together migrate once. Raises SchemaUnknown and SchemaLocked.
    """
    with engine.connect() as connection, locked(connection):

        def bring() -> bool:
            is_older, is_new = _is_older(connection), revision(connection) is None
            # Each revision is a transaction of its own only if none is open here.
            connection.commit()
            _bring(connection, schema, role, login, is_older=is_older, is_new=is_new)
            connection.commit()
            return is_older

        return patiently(connection, bring)


@contextmanager
def locked(connection: Connection) -> Iterator[None]:
    """Meanwhile no other process migrates this database. No transaction is open before and after.

    Nothing waits within a transaction: its snapshot would be waited for by the process that has the
    lock, when it makes an index CONCURRENTLY, and each would wait for the other.
    """
    if not _try_lock(connection):
        log.warning("waiting for another process that migrates this database")
        while not _try_lock(connection):
            time.sleep(LOCK_POLL_S)
    try:
        yield
    finally:
        with suppress(SQLAlchemyError):  # if the session is lost, so is its lock
            connection.rollback()
            connection.execute(_UNLOCK, {"key": MIGRATION_LOCK})
            connection.commit()


def _try_lock(connection: Connection) -> bool:
    is_held = bool(connection.scalar(_TRY_LOCK, {"key": MIGRATION_LOCK}))
    connection.commit()
    return is_held


def _is_older(connection: Connection) -> bool:
    """Whether the schema is to be brought up to date. Raises as `check`."""
    try:
        check(connection)
    except SchemaMissing:
        return True
    return False


def bring_up_to_date(
    connection: Connection, role: str | None, schema: str, login: roles.Login | None
) -> bool:
    """`upgrade`, all of it in the connection's transaction, while it is `locked`.

    It is for a database that nobody else uses, as in a restore: locks are kept until its end.
    """
    is_older, is_new = _is_older(connection), revision(connection) is None
    _bring(connection, schema, role, login, is_older=is_older, is_new=is_new)
    return is_older


def _bring(
    connection: Connection,
    schema: str,
    role: str | None,
    login: roles.Login | None,
    *,
    is_older: bool,
    is_new: bool,
) -> None:
    """Bring a schema to the head, or make one, and provide the role in the last transaction."""

    def finish() -> None:
        _provide(connection, role, login, again=is_older)

    if is_new:
        create(connection, schema)
        _revisions().add_currencies(connection)
        finish()
    elif is_older:
        _revisions().alter(connection, schema, HEAD, finish)
    else:
        finish()


def create(connection: Connection, schema: str, at_revision: str = HEAD) -> None:
    """Make the schema of a database that has none, without the currencies of ISO 4217.

    An earlier revision than the head is for a backup that was written at it. It is reached from the
    base revision, and gives the same database as `schema.sql` when it is altered up to the head.
    """
    # With IF NOT EXISTS it would need CREATE on the database even where there is the schema.
    if connection.scalar(_SCHEMA_EXISTS) is None:
        connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")
    if at_revision != HEAD:
        _revisions().alter(connection, schema, at_revision)
        return
    # The driver takes the whole script at once; it has no parameters.
    connection.exec_driver_sql(SCHEMA_SQL.replace("%", "%%"))
    _revisions().stamp(connection, schema)


def _provide(
    connection: Connection, role: str | None, login: roles.Login | None, *, again: bool
) -> None:
    if connection.scalar(_IS_PUBLIC):
        connection.execute(_REVOKE)
    if role is not None:
        roles.provide(connection, role, login, again=again)


_TRY_LOCK = text("SELECT pg_try_advisory_lock(:key)")
_UNLOCK = text("SELECT pg_advisory_unlock(:key)")
# An empty schema may have been made for us.
_IS_OURS = text(
    f"SELECT to_regclass('{SCHEMA}.transactions') IS NOT NULL"
    f" AND to_regclass('{SCHEMA}.alembic_version') IS NOT NULL"
    f" OR NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('{SCHEMA}'))"
)
# A function without an ACL may be executed by everybody, and so may one whose ACL says so.
_IS_PUBLIC = text(
    f"SELECT EXISTS (SELECT FROM pg_proc p WHERE pronamespace = '{SCHEMA}'::regnamespace"
    " AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner)))"
    " WHERE grantee = 0))"
)
_REVOKE = text(f"REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA {SCHEMA} FROM PUBLIC")
