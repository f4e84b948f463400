"""The schema moves under processes that serve: whom its revisions lock out, and for how long."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event
from sqlalchemy.exc import ProgrammingError

from ledgerservice.errors import SchemaLocked
from ledgerservice.postgres import migrations
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.migrations import HEAD, create, locks, revisions, upgrade
from ledgerservice.postgres.schema import SCHEMA
from tests.databases import ROLE, connect, empty_database, without_guards
from tests.postgres.migrations.locks import Locks, is_outside, watched
from tests.processes import wait_for

SCRIPTS = ScriptDirectory(str(Path(migrations.__file__).parent))
REVISIONS = [script.revision for script in SCRIPTS.walk_revisions()][::-1]
ROWS = """
INSERT INTO ledger.currencies (code, number, exponent, name) VALUES ('USD', 1, 2, 'US Dollar');
INSERT INTO ledger.transactions (ledger_id, id, kind, status, account_id, amount, recorded_at,
    renderer, idempotency_key, account_seq, counterparty_id, counterparty_seq)
SELECT 1, n, 1, 1, 1, 1, now(), 1, n::text, n, -1, n FROM generate_series(1, 50) n;
INSERT INTO ledger.details (ledger_id, transaction_id, digest, description)
SELECT 1, n, sha256(''), 'text' FROM generate_series(1, 50) n
"""

_numbers = itertools.count(1)


@pytest.fixture
def at(database: Database) -> Callable[[str], Database]:
    """Makes a database with some rows, at a revision."""

    def make(revision: str) -> Database:
        older = empty_database(database, f"at_{next(_numbers)}")
        with older.owner_engine().begin() as connection:
            create(connection, SCHEMA, revision)
        with connect(older) as owner, without_guards(owner):
            owner.execute(ROWS)
        return older

    return make


def test_no_revision_locks_anybody_out_for_long(at: Callable[[str], Database]) -> None:
    """Each is run by itself; a fault names the table."""
    engine = at(REVISIONS[0]).owner_engine()
    faults = {}
    for revision in REVISIONS[1:]:
        with watched(engine) as locks, engine.connect() as connection:
            revisions.alter(connection, SCHEMA, revision)
            connection.commit()
        if locks.faults:
            faults[revision] = locks.faults
    assert faults == {}


def test_an_upgrade_keeps_its_revisions_apart(at: Callable[[str], Database]) -> None:
    """In one transaction for all, no index would be made CONCURRENTLY, and all locks be kept."""
    engine = at(REVISIONS[0]).owner_engine()
    with watched(engine) as locks:
        upgrade(engine, ROLE)
    assert locks.faults == []


LONG = {
    "CREATE INDEX i ON ledger.transactions (amount)": "transactions is read while",
    "ALTER TABLE ledger.transactions ADD CHECK (amount >= 0)": "transactions is read while",
    "ALTER TABLE ledger.transactions ALTER amount TYPE numeric": "transactions is written anew",
    "ALTER TABLE ledger.details ADD n float8 DEFAULT random()": "details is written anew",
    "ALTER TABLE ledger.details ADD n int, ADD FOREIGN KEY (ledger_id, transaction_id)"
    " REFERENCES ledger.transactions": "details is read while",
    "ALTER TABLE ledger.details ADD CONSTRAINT c CHECK (transaction_id > 0) NOT VALID;"
    " ALTER TABLE ledger.details VALIDATE CONSTRAINT c": "details is read while",
    "UPDATE ledger.details SET description = 'a'": "rows of details are changed",
    "LOCK TABLE ledger.accounts; SELECT count(*) FROM ledger.accounts": "accounts is read while",
}
SHORT = [
    "ALTER TABLE ledger.details ADD n int",
    "ALTER TABLE ledger.details ADD n int NOT NULL DEFAULT 0",
    "ALTER TABLE ledger.details ADD CONSTRAINT c CHECK (transaction_id > 0) NOT VALID",
    "ALTER TABLE ledger.transactions DROP COLUMN amount CASCADE",
    "CREATE TABLE ledger.t (ledger_id int PRIMARY KEY REFERENCES ledger.ledgers)",
    "ALTER TABLE ledger.ledgers ADD CHECK (ledger_id > 0)",
    "CREATE TABLE ledger.t (n int); CREATE INDEX i ON ledger.t (n); UPDATE ledger.t SET n = 1",
]


def judged(database: Database, statement: str, level: str) -> Locks:
    engine = database.owner_engine()
    with watched(engine) as locks, engine.connect() as connection:
        as_told: Connection = connection.execution_options(isolation_level=level)
        as_told.exec_driver_sql(statement)
        as_told.commit()
    return locks


@pytest.mark.parametrize(("statement", "fault"), LONG.items())
def test_a_long_lock_is_found(at: Callable[[str], Database], statement: str, fault: str) -> None:
    database = at(REVISIONS[1])
    with connect(database) as owner:
        owner.execute("ALTER TABLE ledger.details DISABLE TRIGGER USER")
    assert fault in " ".join(judged(database, statement, "READ COMMITTED").faults)


def test_a_short_lock_is_not_found(at: Callable[[str], Database]) -> None:
    for number, statement in enumerate(SHORT):
        database = at(REVISIONS[number % 3])
        assert judged(database, statement, "READ COMMITTED").faults == [], statement


def test_outside_of_a_transaction_only_what_is_made_for_it_may_run(
    at: Callable[[str], Database],
) -> None:
    database = at(HEAD)
    concurrent = "CREATE INDEX CONCURRENTLY i ON ledger.transactions (amount)"
    assert judged(database, concurrent, "AUTOCOMMIT").faults == []
    for statement in ("CREATE INDEX j ON ledger.details (reference)", "DELETE FROM ledger.details"):
        with connect(database) as owner:
            owner.execute("ALTER TABLE ledger.details DISABLE TRIGGER USER")
        assert judged(database, statement, "AUTOCOMMIT").faults != []


@pytest.mark.thorough
def test_a_migration_waits_for_a_lock_and_nobody_waits_for_it(
    at: Callable[[str], Database], caplog: pytest.LogCaptureFixture
) -> None:
    """A transaction holds what 0007 needs, as a backup or an import does; others write on."""
    older = at("0006_webhooks")
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(upgrade(older.owner_engine(), ROLE)))
    with connect(older) as holder, connect(older) as writer:
        writer.execute("SET lock_timeout = '10s'")
        with holder.transaction():
            holder.execute("LOCK TABLE ledger.ledgers IN ROW EXCLUSIVE MODE")
            thread.start()
            for _ in range(5):  # one of the tries is a patient one
                caplog.clear()
                assert wait_for(lambda: "another session holds a lock" in caplog.text, 30)
                writer.execute("BEGIN; LOCK TABLE ledger.ledgers IN ROW EXCLUSIVE MODE; COMMIT")
            assert done == []
        thread.join(60)
    assert done == [True]


def test_who_waits_for_a_migration_does_not_hold_it_up(
    at: Callable[[str], Database], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An index that is made CONCURRENTLY waits for the snapshot of each statement that runs."""
    monkeypatch.setattr(locks, "GIVE_UP_S", 5.0)
    older = at("0004_positions")
    migrating, results = older.owner_engine(), []
    threads = [
        threading.Thread(target=lambda one=engine: results.append(upgrade(one, ROLE)))
        for engine in (migrating, older.owner_engine())
    ]

    def let_the_other_wait(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("CREATE INDEX CONCURRENTLY") and not threads[1].is_alive():
            threads[1].start()
            assert wait_for(lambda: "waiting for another process" in caplog.text, 30)

    event.listen(migrating, "before_cursor_execute", let_the_other_wait)
    threads[0].start()
    threads[0].join(60)
    threads[1].join(60)
    assert sorted(results) == [False, True]
    assert "another session holds a lock" not in caplog.text


def test_what_runs_outside_of_a_transaction_leaves_short_locks_behind(
    at: Callable[[str], Database],
) -> None:
    older = at("0004_positions")
    with connect(older) as owner:
        owner.execute("CREATE TABLE ledger.details_effective ()")
    with older.owner_engine().connect() as connection:
        connection.exec_driver_sql(f"SET lock_timeout = {locks.LOCK_TIMEOUT_MS}")
        connection.commit()
        with pytest.raises(ProgrammingError, match="is not an index"):
            revisions.alter(connection, SCHEMA, HEAD)
        connection.rollback()
        lock_timeout = connection.exec_driver_sql("SHOW lock_timeout").scalar()
    assert lock_timeout == f"{locks.LOCK_TIMEOUT_MS}ms"


def begun(database: Database, wait_s: float) -> tuple[list[str], threading.Thread]:
    """Begins work of some seconds that needs a table at its end."""
    done: list[str] = []

    def lock() -> None:
        with database.owner_engine().connect() as connection:

            def work() -> str:
                connection.exec_driver_sql(f"SELECT pg_sleep({wait_s})")
                connection.exec_driver_sql("LOCK TABLE ledger.details IN ACCESS EXCLUSIVE MODE")
                connection.commit()
                return "done"

            try:
                done.append(locks.patiently(connection, work))
            except SchemaLocked as error:
                done.append(str(error))

    thread = threading.Thread(target=lock)
    thread.start()
    return done, thread


@pytest.mark.thorough
def test_work_does_not_count_as_waiting(
    at: Callable[[str], Database], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "GIVE_UP_S", 2.0)
    database = at(HEAD)
    with connect(database) as holder, holder.transaction():
        holder.execute("LOCK TABLE ledger.details IN ROW EXCLUSIVE MODE")
        done, thread = begun(database, 2.5)
        assert wait_for(lambda: "another session holds a lock" in caplog.text or bool(done), 30)
    thread.join(60)
    assert done == ["done"]


@pytest.mark.thorough
def test_a_migration_ends_an_autovacuum(
    at: Callable[[str], Database], caplog: pytest.LogCaptureFixture
) -> None:
    """It is one that is so slow that no other end comes in time, and others come after it."""
    database = at(HEAD)
    with connect(database) as owner, napping(owner):
        with without_guards(owner):
            owner.execute(LARGE)
        assert wait_for(lambda: is_vacuumed(owner), 90, 0.2)
        done, thread = begun(database, 0)
        thread.join(60)
        assert done == ["done"]
    assert "another session holds a lock" in caplog.text


LARGE = """
ALTER TABLE ledger.details SET (
    autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,
    autovacuum_vacuum_threshold = 10, autovacuum_vacuum_scale_factor = 0);
INSERT INTO ledger.details (ledger_id, transaction_id, digest, description)
SELECT 1, n, sha256(''), repeat('x', 250) FROM generate_series(100, 9000) n;
DELETE FROM ledger.details WHERE transaction_id > 100
"""


@contextmanager
def napping(owner: psycopg.Connection[Any]) -> Iterator[None]:
    """The server looks every second what there is to vacuum."""
    owner.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
    owner.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        owner.execute("ALTER SYSTEM RESET autovacuum_naptime")
        owner.execute("SELECT pg_reload_conf()")


def is_vacuumed(owner: psycopg.Connection[Any]) -> bool:
    query = "SELECT 1 FROM pg_stat_progress_vacuum WHERE relid = 'ledger.details'::regclass"
    return owner.execute(query).fetchone() is not None


def test_a_migration_gives_up(
    at: Callable[[str], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "GIVE_UP_S", -1.0)
    older = at("0006_webhooks")
    with connect(older) as holder, holder.transaction():
        holder.execute("LOCK TABLE ledger.ledgers IN ROW EXCLUSIVE MODE")
        with pytest.raises(SchemaLocked, match="End that session"):
            upgrade(older.owner_engine(), ROLE)
    assert upgrade(older.owner_engine(), ROLE)
    assert not upgrade(older.owner_engine(), ROLE)


def test_an_index_that_was_left_unfinished_is_made_again(at: Callable[[str], Database]) -> None:
    older = at("0004_positions")
    with connect(older) as owner:
        with pytest.raises(psycopg.errors.UniqueViolation):
            owner.execute(
                "CREATE UNIQUE INDEX CONCURRENTLY details_effective ON ledger.details (description)"
            )
        assert upgrade(older.owner_engine(), ROLE)
        query = "SELECT indisvalid, indisunique FROM pg_index WHERE indexrelid = %s::regclass"
        assert owner.execute(query, ["ledger.details_effective"]).fetchall() == [(True, False)]


def test_a_revision_that_was_ended_in_its_middle_is_run_again(
    at: Callable[[str], Database],
) -> None:
    """What runs outside of a transaction leaves the part before it behind."""
    engine = at(REVISIONS[0]).owner_engine()
    ended: list[str] = []

    def end(connection: Connection, _c: Any, statement: str, *_: Any) -> None:
        if is_outside(connection) and statement.startswith(("CREATE", "ALTER")):
            ended.append(statement)
            if ended.count(statement) == 1:
                raise InterruptedError

    event.listen(engine, "before_cursor_execute", end)
    for revision in REVISIONS[1:]:
        is_over = False
        while not is_over:
            with suppress(InterruptedError), engine.connect() as connection:
                revisions.alter(connection, SCHEMA, revision)
                connection.commit()
                is_over = True
    assert len(set(ended)) > 2
    assert all(ended.count(statement) >= 2 for statement in ended)
    with engine.connect() as connection:
        assert migrations.revision(connection) == HEAD


def test_the_head_is_that_of_the_revisions() -> None:
    assert revisions._scripts.get_current_head() == HEAD


def test_a_schema_says_at_each_revision_which_releases_it_bears(
    at: Callable[[str], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    older = at("0006_webhooks")
    engine = older.owner_engine()
    with engine.connect() as connection:
        revisions.alter(connection, SCHEMA, "0007_access")
        connection.commit()
    assert comment_of(older).startswith("compatible: 0007_access 0006_webhooks ")
    module = revisions._scripts.get_revision(HEAD).module
    monkeypatch.setattr(module, "compatible", "0007_access")
    assert upgrade(engine, ROLE)
    served = comment_of(older).removeprefix("compatible: ").split()
    assert (served[0], served[-1]) == (HEAD, "0007_access")
    monkeypatch.setattr(module, "compatible", False)
    assert revisions._served(HEAD) == [HEAD]


def comment_of(database: Database) -> str:
    with connect(database) as owner:
        query = "SELECT obj_description('ledger.alembic_version'::regclass, 'pg_class')"
        [(text,)] = owner.execute(query).fetchall()
        return str(text)


APPROVED = """
INSERT INTO ledger.proposals (ledger_id, id, proposed_by, expires_at, rule, approvals, operation,
                              scope_id, idempotency_key, body, digest)
SELECT 1, n, 1, '2000-01-01', 'amount', 1, 'deposit', 1, n::text, '{}', sha256('x')
FROM generate_series(1, 4) n;
INSERT INTO ledger.decisions (ledger_id, proposal_id, proposed_by, decided_by, verdict, reason)
VALUES (1, 1, 1, 2, 'approve', 'r'), (1, 2, 1, 2, 'reject', 'r'), (1, 3, 1, 2, 'approve', 'r');
INSERT INTO ledger.executions (ledger_id, proposal_id, status) VALUES (1, 3, 200)
"""


def test_what_was_approved_before_is_carried_out(at: Callable[[str], Database]) -> None:
    older = at("0014_approvals")
    with connect(older) as owner:
        with without_guards(owner):
            owner.execute(APPROVED)
        assert upgrade(older.owner_engine(), ROLE)
        due = owner.execute("SELECT ledger_id, proposal_id FROM ledger.executions_due").fetchall()
    assert due == [(1, 1)]
