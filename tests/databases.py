"""Databases for tests: create them, connect to them and administer them."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import URL, create_engine, text
from sqlalchemy.pool import NullPool

from ledgerservice.postgres.connections import Database
from ledgerservice.settings import Settings

ROLE = "ledgerservice"


def settings_for_tests(**values: Any) -> Settings:
    return Settings(**{"_env_file": None, "database_url": None, **values})


MEMORY = Path("/dev/shm")  # a database is copied eight times as fast there
MEMORY_NEEDED_BYTES = 8 * 2**30


def quick_place() -> Path:
    """Memory that serves as a disk, if there is enough of it; else /tmp."""
    enough = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_NEEDED_BYTES
    return MEMORY if enough and os.access(MEMORY, os.W_OK) else Path("/tmp")


@contextmanager
def reachable_folder(place: Path = Path("/tmp")) -> Iterator[Path]:
    """A folder that is open to the user that root's PostgreSQL runs as; pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="ledger-", dir=place))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def administer(url: URL, *statements: str) -> None:
    """Run statements as the server's administrator, outside of a transaction."""
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))


def url_text(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


def connect(database: Database, *, role: str | None = None) -> "psycopg.Connection[Any]":
    """A psycopg connection as the database's owner, or as `role`."""
    _, arguments = database.url.get_dialect()().create_connect_args(database.url)
    connection = psycopg.connect(**arguments, autocommit=True)
    if role is not None:
        connection.execute(f"SET ROLE {role}")
    return connection


GUARDS_OFF = """
SET session_replication_role = replica;
DO $$
DECLARE
    guard record;
BEGIN
    FOR guard IN SELECT tgrelid::regclass AS relation, tgname
                 FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
                 WHERE c.relnamespace = 'ledger'::regnamespace AND NOT tgisinternal
    LOOP
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', guard.relation, guard.tgname);
    END LOOP;
END $$;
"""
"""What a superuser can do before a change past all guards."""
GUARDS_ON = GUARDS_OFF.replace("DISABLE", "ENABLE ALWAYS").replace("= replica", "= origin")


@contextmanager
def without_guards(superuser: "psycopg.Connection[Any]") -> Iterator[None]:
    """The triggers are off meanwhile, those of foreign keys too."""
    superuser.execute(GUARDS_OFF)
    yield
    superuser.execute(GUARDS_ON)


def waiting_for_a_lock(database: Database) -> bool:
    with connect(database) as onlooker:
        waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return onlooker.execute(waiting).fetchone() == (True,)


def empty_database(database: Database, suffix: str, options: str = "") -> Database:
    name = f"{database.url.database}_{suffix}"
    administer(database.url, f"CREATE DATABASE {name} {options}")
    return Database(database.url.set(database=name), settings_for_tests())
