"""The schema: what is made, by whom, once."""

import asyncio
import threading
from dataclasses import replace

import pytest
from sqlalchemy.dialects import postgresql

from ledgerservice.domain.accounts import Opening
from ledgerservice.domain.instructions import Capture, Hold
from ledgerservice.errors import SchemaMissing, SchemaUnknown
from ledgerservice.postgres.connections import Database, usable_role
from ledgerservice.postgres.migrations import check, create, upgrade
from ledgerservice.postgres.migrations.versions import base
from ledgerservice.postgres.registration import open_accounts as open_accounts_of
from ledgerservice.postgres.schema import SCHEMA
from ledgerservice.postgres.tables import metadata
from ledgerservice.postgres.verification import verify
from tests.catalogue import THE_DATABASE
from tests.databases import (
    ROLE,
    administer,
    connect,
    empty_database,
    settings_for_tests,
    waiting_for_a_lock,
)
from tests.postgres.rows import balances
from tests.postings import deposit, open_accounts, post
from tests.processes import wait_for


def test_the_tables_are_those_of_the_schema(database):
    """The columns that SQLAlchemy reads are the database's, in name and type."""
    with connect(database) as owner:
        found = owner.execute(
            "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod)"
            " FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'r'"
            f" WHERE c.relnamespace = '{SCHEMA}'::regnamespace AND a.attnum > 0"
            " AND c.relname <> 'alembic_version'"
        ).fetchall()
    dialect = postgresql.dialect()
    assert set(found) == {
        (table.name, column.name, column.type.compile(dialect=dialect).lower())
        for table in metadata.tables.values()
        for column in table.columns
    }


ADD_HOURS = """
INSERT INTO ledger.currencies (code, number, exponent, name) VALUES ('HOURS', 3, 0, 'Hours')
"""


def test_external_accounts_are_there_for_every_ledger_and_currency(database):
    with connect(database) as owner:
        owner.execute("INSERT INTO ledger.ledgers (ledger_id, name) VALUES (2, 'second')")
        owner.execute(ADD_HOURS)
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
            add = ADD_HOURS
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


def test_a_new_database_is_the_same_as_an_upgraded_one(database):
    """`schema.sql` and the revisions since the base give the same catalogue, rights included."""
    upgraded = empty_database(database, "upgraded")
    with upgraded.owner_engine().begin() as connection:
        create(connection, SCHEMA, base.revision)
    assert upgrade(upgraded.owner_engine(), ROLE)
    with connect(upgraded) as owner, connect(database) as other:
        expected = set(other.execute(THE_DATABASE).fetchall())
        assert set(owner.execute(THE_DATABASE).fetchall()) == expected


@pytest.mark.parametrize("revision", ["9999", "0007"])
def test_a_schema_that_this_release_does_not_know_is_left_alone(database, revision):
    administer(database.url, f"UPDATE ledger.alembic_version SET version_num = '{revision}'")
    with pytest.raises(SchemaUnknown, match=f"revision {revision}"):
        upgrade(database.owner_engine(), ROLE)


def test_the_schema_is_missing(database):
    with (
        empty_database(database, "none").owner_engine().connect() as connection,
        pytest.raises(SchemaMissing),
    ):
        check(connection)


def test_a_ledger_in_a_schema_of_another_name(database):
    """Everything is in that schema: it is posted, read, verified, and nothing is in the default."""
    settings = settings_for_tests(LEDGER_SCHEMA="user")
    renamed = replace(empty_database(database, "renamed"), settings=settings)
    assert upgrade(renamed.owner_engine(), ROLE, "user")
    assert not upgrade(renamed.owner_engine(), ROLE, "user")
    renamed = replace(renamed, role=usable_role(renamed))
    assert renamed.role == ROLE
    open_accounts_in(renamed)
    post(renamed, [deposit(1, 5), Hold(1, None, "2", "h")], [Capture(0, "none")])
    with connect(renamed) as owner:
        row = owner.execute('SELECT balance, held FROM "user".accounts WHERE id = 1').fetchone()
        assert row == (500, 200)
        assert owner.execute("SELECT to_regnamespace('ledger')").fetchone() == (None,)
    assert list(verify(renamed.owner_engine(), schema="user")) == []
    with connect(renamed) as owner:
        owner.execute('DROP TRIGGER accounts_derived ON "user".accounts')
    assert [v.where for v in verify(renamed.owner_engine(), schema="user")] == [
        "trigger accounts_derived"
    ]


def open_accounts_in(database: Database) -> None:
    async def run() -> None:
        wire = await database.connect_writer()
        await open_accounts_of(wire, [Opening("o", "USD", None, "k")])
        await wire.close()

    asyncio.run(run())
