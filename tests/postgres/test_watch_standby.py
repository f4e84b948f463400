"""`verify --watch` on a real streaming replica."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.migrations import upgrade
from ledgerservice.postgres.verification.watching import Watch
from tests.databases import connect, without_guards
from tests.postings import deposit, open_accounts, post
from tests.processes import ROOT, environment, free_port, wait_for
from tests.proof.servers.cluster import PostgreSQL
from tests.replicas import ledger_on, primary_and_standby
from tests.telemetry.scraping import value

SUCCESS, VIOLATIONS = "ledger_verify_last_success_timestamp_seconds", "ledger_verify_violations"
SPOIL = """
UPDATE ledger.entries SET amount = amount + 1
WHERE transaction_id = (SELECT max(id) FROM ledger.transactions) AND account_id = 1
"""
LOCK = "BEGIN; LOCK TABLE ledger.entries IN ACCESS EXCLUSIVE MODE; COMMIT"
CONFLICTS = "SELECT confl_lock FROM pg_stat_database_conflicts WHERE datname = 'proof'"


@pytest.fixture
def replicated(workspace: Path) -> Iterator[tuple[Database, PostgreSQL, PostgreSQL]]:
    """A ledger, its primary, and a standby that has it."""
    with primary_and_standby(workspace, synchronous=False) as (primary, standby):
        database = ledger_on(primary)
        upgrade(database.owner_engine(), database.settings.service_role)
        open_accounts(database, "USD")
        post(database, [deposit(1, 100)], numbered=False)
        await_replay(primary, standby)
        yield database, primary, standby


def await_replay(primary: PostgreSQL, standby: PostgreSQL) -> None:
    [(position,)] = primary.ask("SELECT pg_current_wal_lsn()")
    query = f"SELECT pg_last_wal_replay_lsn() >= '{position}'"
    assert wait_for(lambda: standby.ask(query) == [(True,)], 30)


@contextmanager
def watching(standby: PostgreSQL, port: int) -> Iterator["subprocess.Popen[str]"]:
    values = {
        "DATABASE_URL": standby.url,
        "LEDGER_VERIFY_INTERVAL_S": "0.2",
        "LEDGER_METRICS_PORT": str(port),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "ledgerservice", "verify", "--watch", "--json"],
        env=environment(**values),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def shows(port: int, name: str, least: float) -> bool:
    try:
        return value(port, name) >= least
    except httpx.TransportError:
        return False


@pytest.mark.thorough
def test_a_standby_is_watched_over_restarts_and_its_promotion(
    replicated: tuple[Database, PostgreSQL, PostgreSQL],
) -> None:
    database, primary, standby = replicated
    port = free_port()
    with watching(standby, port) as process:
        assert wait_for(lambda: shows(port, SUCCESS, 1), 60)
        standby.stop()
        standby.start()
        post(database, [deposit(1, 5, "new")], numbered=False)
        with connect(database) as superuser, without_guards(superuser):
            superuser.execute(SPOIL)
        await_replay(primary, standby)
        assert wait_for(lambda: shows(port, VIOLATIONS, 1), 60)
        primary.kill()
        standby.ask("SELECT pg_promote(true)")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        assert (process.returncode, '"holds": false' in output) == (1, True)
        assert "invariant" in output


def test_a_conflict_with_the_replay_costs_work_only(
    replicated: tuple[Database, PostgreSQL, PostgreSQL],
) -> None:
    """As when a migration locks a table: the standby ends the session that reads it."""
    _, primary, standby = replicated
    standby.ask("ALTER SYSTEM SET max_standby_streaming_delay = 0")
    standby.ask("SELECT pg_reload_conf()")
    engine = ledger_on(standby).owner_engine()
    watch, stop, disturbed = Watch(engine, "ledger"), threading.Event(), threading.Event()

    def disturb(_c: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "ledger.entries" in statement and not disturbed.is_set():
            disturbed.set()

            cursor.execute("SELECT FROM ledger.entries LIMIT 1")
            primary.ask(LOCK, "proof")
            assert wait_for(lambda: standby.ask(CONFLICTS) == [(1,)], 30)

    event.listen(engine, "before_cursor_execute", disturb)
    thread = threading.Thread(target=watch.run, args=(stop, 0.05))
    thread.start()
    try:
        assert wait_for(lambda: watch.last_success_s > 0, 60)
        assert disturbed.is_set()
        assert watch.violations == 0
    finally:
        stop.set()
        watch.interrupt()
        thread.join(30)
