"""A PostgreSQL with a streaming replica, both real."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.urls import parse_url
from tests.databases import settings_for_tests
from tests.processes import wait_for
from tests.proof.servers import cluster
from tests.proof.servers.cluster import PostgreSQL

START_LIMIT_S = 60.0


@contextmanager
def primary_and_standby(folder: Path, *, synchronous: bool) -> Iterator[tuple[PostgreSQL, ...]]:
    with ExitStack() as stack:
        cluster.create(folder / "primary")
        primary = PostgreSQL(folder / "primary", folder / "primary.log")
        stack.callback(primary.kill)
        primary.start()
        primary.ask(f"CREATE DATABASE {cluster.DATABASE}")
        standby = stack.enter_context(standby_of(primary, folder / "standby"))
        if synchronous:
            primary.ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
            primary.ask("SELECT pg_reload_conf()")
            query = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
            assert wait_for(lambda: bool(primary.ask(query)), START_LIMIT_S)
        yield primary, standby


@contextmanager
def standby_of(primary: PostgreSQL, folder: Path) -> Iterator[PostgreSQL]:
    """A further standby."""
    cluster.make_folder(folder)
    cluster.run_program(
        "pg_basebackup", "-D", str(folder), "-R", "-c", "fast", "-X", "stream",
        "-d", f"host=127.0.0.1 port={primary.port} user=postgres",
    )  # fmt: skip
    standby = PostgreSQL(folder, folder.with_suffix(".log"))
    try:
        standby.start()
        yield standby
    finally:
        standby.kill()


def ledger_on(server: PostgreSQL) -> Database:
    return Database(parse_url(server.url), settings_for_tests())
