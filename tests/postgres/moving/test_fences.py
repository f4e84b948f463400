"""Fences: who may write to a ledger that moves, and what `verify` says of them."""

import psycopg
import pytest

from ledgerservice.errors import MoveFault
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.moving.fences import set_fence
from ledgerservice.postgres.verification import verify
from tests.databases import ROLE, connect

OPEN = "INSERT INTO ledger.accounts (ledger_id, owner, currency) VALUES ({}, 'o', 'USD')"
SHOP, OTHER = 2, 3
FENCED = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'fenced%'"


@pytest.fixture
def ledgers(database: Database) -> Database:
    with connect(database) as owner:
        owner.execute("INSERT INTO ledger.ledgers (name) VALUES ('shop'), ('other')")
    return database


def fence(database: Database, state: str, generation: int = 1, ledger: int = SHOP) -> None:
    with database.owner_engine().connect() as connection:
        set_fence(connection, ledger, generation, state)


def number_of_fences(database: Database) -> int:
    with connect(database) as onlooker:
        [(count,)] = onlooker.execute(FENCED).fetchall()
    return int(count)


@pytest.mark.parametrize("state", ["arriving", "removing", "leaving", "left"])
def test_a_fence_refuses_one_ledger_and_goes_without_a_trace(ledgers: Database, state: str) -> None:
    assert number_of_fences(ledgers) == 0
    fence(ledgers, state)
    with connect(ledgers, role=ROLE) as service:
        # What the owner says to load is nothing that the service could say.
        service.execute(f"SET ledgerservice.loading = '{SHOP}'")
        with pytest.raises(psycopg.DatabaseError) as refused:
            service.execute(OPEN.format(SHOP))
        assert refused.value.sqlstate == "LM001"
        service.execute(OPEN.format(OTHER))
    assert list(verify(ledgers.owner_engine())) == []
    fence(ledgers, "home", 2)
    assert number_of_fences(ledgers) == 0
    with connect(ledgers, role=ROLE) as service:
        service.execute(OPEN.format(SHOP))


def test_a_step_of_an_older_run_is_refused(ledgers: Database) -> None:
    fence(ledgers, "leaving", 2)
    fence(ledgers, "home", 3)
    with pytest.raises(MoveFault, match="Another process"):
        fence(ledgers, "leaving", 2)
    assert number_of_fences(ledgers) == 0


def test_two_fences_are_one_trigger_and_go_one_after_the_other(ledgers: Database) -> None:
    fence(ledgers, "leaving")
    one = number_of_fences(ledgers)
    fence(ledgers, "left", ledger=OTHER)
    with connect(ledgers, role=ROLE) as service:
        for ledger in (SHOP, OTHER):
            with pytest.raises(psycopg.DatabaseError, match=f"ledger {ledger} is moving"):
                service.execute(OPEN.format(ledger))
    fence(ledgers, "home", ledger=OTHER)
    assert number_of_fences(ledgers) == one


def test_loading_removes_the_rows_of_its_ledger_only(ledgers: Database) -> None:
    fence(ledgers, "arriving")
    with connect(ledgers) as owner:
        owner.execute(f"SET ledgerservice.loading = '{SHOP}'")
        with pytest.raises(psycopg.DatabaseError, match=f"ledger {OTHER}"):
            owner.execute("DELETE FROM ledger.accounts WHERE ledger_id > 1")
        with pytest.raises(psycopg.errors.CheckViolation):
            owner.execute("TRUNCATE ledger.accounts")
        owner.execute(f"DELETE FROM ledger.accounts WHERE ledger_id = {SHOP}")
        owner.execute("RESET ledgerservice.loading")
        with pytest.raises(psycopg.errors.CheckViolation, match="accounts are permanent"):
            owner.execute(f"DELETE FROM ledger.accounts WHERE ledger_id = {OTHER}")


@pytest.mark.parametrize("how", ["DISABLE", "ENABLE REPLICA", "ENABLE"])
def test_nothing_is_removed_where_the_fence_is_not_on(ledgers: Database, how: str) -> None:
    """As after one that could not be dropped while somebody read."""
    fence(ledgers, "arriving")
    with connect(ledgers) as owner:
        owner.execute(f"ALTER TABLE ledger.accounts {how} TRIGGER fenced_delete")
        owner.execute(f"SET ledgerservice.loading = '{SHOP}'")
        for ledger in (SHOP, OTHER):
            with pytest.raises(psycopg.errors.CheckViolation, match="accounts are permanent"):
                owner.execute(f"DELETE FROM ledger.accounts WHERE ledger_id = {ledger}")


TAMPERED = {
    "a fence without its row": "DELETE FROM ledger.fences",
    "a row without its fence": "DROP TRIGGER fenced_insert ON ledger.transactions",
    "a fence of others": "UPDATE ledger.fences SET ledger_id = 3",
    "a fence that is off": "ALTER TABLE ledger.accounts DISABLE TRIGGER fenced_insert",
    "a fence that is not always on": "ALTER TABLE ledger.accounts ENABLE TRIGGER fenced_insert",
}


@pytest.mark.parametrize("statement", TAMPERED.values(), ids=TAMPERED)
def test_verify_finds(ledgers: Database, statement: str) -> None:
    fence(ledgers, "leaving")
    assert list(verify(ledgers.owner_engine())) == []
    with connect(ledgers) as owner:
        owner.execute(statement)
    assert [one for one in verify(ledgers.owner_engine()) if "fenced_insert" in one.where]


def test_a_fence_does_not_wait_for_readers(ledgers: Database) -> None:
    """Such as a backup, or `verify`. What cannot be dropped then is off, and dropped later."""
    fence(ledgers, "leaving")
    reading = "SELECT FROM ledger.currencies, ledger.transactions, ledger.accounts LIMIT 1"
    with connect(ledgers) as reader, reader.transaction():
        reader.execute(reading)
        fence(ledgers, "left", 2)
        fence(ledgers, "home", 3)
        assert number_of_fences(ledgers) > 0
        assert list(verify(ledgers.owner_engine())) == []
        with connect(ledgers, role=ROLE) as service:
            service.execute(OPEN.format(SHOP))
        fence(ledgers, "leaving", 4)
        with connect(ledgers, role=ROLE) as service, pytest.raises(psycopg.DatabaseError):
            service.execute(OPEN.format(SHOP))
    fence(ledgers, "home", 5)
    assert number_of_fences(ledgers) == 0
