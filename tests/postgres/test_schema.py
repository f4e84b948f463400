"""The schema: what is made, by whom, once."""

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from ledgerservice.errors import SchemaMissing, SchemaTooNew
from ledgerservice.postgres.migrations import check, upgrade
from ledgerservice.postgres.tables import SCHEMA, metadata
from tests.databases import ROLE, administer, connect, empty_database, waiting_for_a_lock
from tests.postgres.rows import balances
from tests.postings import open_accounts
from tests.processes import wait_for


def test_the_tables_are_what_the_migrations_make(database):
    with database.owner_engine().connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "compare_type": True,
                "include_name": lambda name, kind, _: kind != "schema" or name == SCHEMA,
                "include_object": lambda _o, name, kind, _r, _c: (
                    (kind, name) != ("table", "alembic_version")
                ),
            },
        )
        assert compare_metadata(context, metadata) == []


def test_external_accounts_are_there_for_every_ledger_and_currency(database):
    with connect(database) as owner:
        owner.execute("INSERT INTO ledger.ledgers (ledger_id, name) VALUES (2, 'second')")
        owner.execute("INSERT INTO ledger.currencies VALUES ('HOURS', 3, 0, 'Hours')")
        found = owner.execute(
            "SELECT ledger_id, id, currency, floor FROM ledger.accounts ORDER BY ledger_id, id DESC"
        ).fetchall()
        currencies = owner.execute("SELECT -number, code FROM ledger.currencies ORDER BY number")
        expected = [(ledger, i, c, None) for i, c in currencies for ledger in (1, 2)]
    assert found == sorted(expected, key=lambda row: (row[0], -row[1]))
    assert {(1, -1, "USD", None), (2, -2, "INR", None), (2, -3, "HOURS", None)} <= set(found)
    open_accounts(database, "USD", "INR")
    with connect(database) as owner:
        assert [row[0] for row in balances(owner)] == [1, 2]


def test_a_ledger_and_a_currency_that_come_together_see_each_other(database):
    """Whoever is second waits for the first, and opens what neither could have opened alone."""
    with connect(database) as one, connect(database) as other:
        with one.transaction():
            one.execute("INSERT INTO ledger.ledgers (ledger_id, name) VALUES (2, 'second')")
            add = "INSERT INTO ledger.currencies VALUES ('HOURS', 3, 0, 'Hours')"
            second = threading.Thread(target=other.execute, args=[add])
            second.start()
            assert wait_for(lambda: waiting_for_a_lock(database))
        second.join(30)
        found = one.execute("SELECT ledger_id FROM ledger.accounts WHERE id = -3 ORDER BY 1")
        assert found.fetchall() == [(1,), (2,)]


def test_processes_that_start_together_migrate_once(database):
    empty = empty_database(database, "empty")
    changed = []
    threads = [
        threading.Thread(target=lambda: changed.append(upgrade(empty.owner_engine(), ROLE)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(changed) == [False, False, False, True]


def test_the_schema_is_missing_or_too_new(database):
    with (
        empty_database(database, "none").owner_engine().connect() as connection,
        pytest.raises(SchemaMissing),
    ):
        check(connection)
    administer(database.url, "UPDATE ledger.alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaTooNew):
        upgrade(database.owner_engine(), ROLE)
