"""Rows beside transactions and entries: details, holds, schedules, policies, dated entries."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from ledgerservice.domain.instructions import Hold, PolicyChange, Schedule
from ledgerservice.postgres.connections import Database
from tests.databases import ROLE, connect
from tests.postgres.rows import ENTRY_COLUMNS, REFUSED, e, write
from tests.postings import deposit, open_accounts, post

# What stands beside transactions and entries.


@pytest.fixture(scope="module")
def beside_once(new_database: Callable[..., Database]) -> Database:
    database = new_database()
    open_accounts(database, "USD", "USD")
    later = datetime(2099, 1, 1, tzinfo=UTC)
    post(
        database,
        [deposit(1, 10), Hold(1, 2, "3", "h")],
        [Schedule(1, 2, "1", later, "s"), PolicyChange(2, "p", "-1")],
    )
    return database


@pytest.fixture
def beside(new_database: Callable[..., Database], beside_once: Database) -> Database:
    """Accounts 1 (USD 10.00, a hold of 3.00, transaction 2) and 2; a schedule, 3; a policy, 4."""
    return new_database(beside_once)


DETAILS = "INSERT INTO ledger.details (ledger_id, transaction_id, digest, parent_id)"
DIGEST = "sha256('')"


STRAYS = {
    "details": f"{DETAILS} VALUES (1, 1, {DIGEST}, NULL)",
    "details of nothing": f"{DETAILS} VALUES (1, 77, {DIGEST}, NULL)",
    "holds": (
        "INSERT INTO ledger.holds (ledger_id, transaction_id, account_id, counterparty_id, amount)"
        " VALUES (1, 1, 1, 2, 5)"
    ),
    "policies": "INSERT INTO ledger.policies VALUES (1, 1, 1, 1, -5, NULL, NULL, 0)",
    "schedules": (
        "INSERT INTO ledger.schedules (ledger_id, transaction_id, account_id, counterparty_id,"
        " amount, execute_at) VALUES (1, 1, 1, 2, 5, now())"
    ),
    "dated_entries": "INSERT INTO ledger.dated_entries VALUES (1, 1, now(), 1, 1, 5, now())",
}


@pytest.mark.parametrize("statement", STRAYS.values(), ids=STRAYS.keys())
def test_nothing_is_added_to_an_older_transaction(beside, statement):
    with connect(beside, role=ROLE) as service, pytest.raises(REFUSED, match="missing, declined"):
        service.execute(statement)


@pytest.mark.parametrize("account", [1, -1, 77])
def test_details_are_added_to_a_new_account_only(beside, account):
    statement = f"INSERT INTO ledger.account_details VALUES (1, {account}, '{{}}')"
    with connect(beside, role=ROLE) as service, pytest.raises(REFUSED, match="used already"):
        service.execute(statement)


def new_transaction(service, kind: int, number: int = 900, amount: int = 300) -> None:
    other, seqs = (2, "4, 2") if kind <= 3 else ("NULL", "NULL, NULL")
    service.execute(
        "INSERT INTO ledger.transactions (ledger_id, id, kind, status, account_id,"
        " counterparty_id, amount, recorded_at, renderer, idempotency_key, account_seq,"
        " counterparty_seq, has_details)"
        f" VALUES (1, {number}, {kind}, 1, 1, {other}, {amount}, clock_timestamp(), 1, 'n{number}',"
        f" {seqs}, true)"
    )


def step(service, kind: int, parent: int | str, *entries: tuple[int, int, int, int, int, int]):
    """A transaction with details, and entries: account, seq, both changes and both results."""
    new_transaction(service, kind)
    service.execute(f"{DETAILS} VALUES (1, 900, {DIGEST}, {parent})")
    for entry in entries:
        add_entry(service, *entry)


def add_entry(service, account, seq, amount, held_change, balance, held) -> None:
    service.execute(
        f"INSERT INTO ledger.entries ({ENTRY_COLUMNS}) SELECT 1, 1, {account}, {seq}, 900,"
        f" {amount}, {held_change}, {balance}, {held}, recorded_at"
        " FROM ledger.transactions WHERE id = 900"
    )


HELD_WRONG = {
    "more than the hold": [7, 2, (1, 4, 0, -301, 1000, -1)],
    "a hold of another account": [5, 2, (2, 2, 0, 0, 0, 0), (1, 4, 0, 5, 1000, 305)],
    "no hold at all": [5, "NULL", (1, 4, 0, 100, 1000, 400)],
    "a parent that holds nothing": [7, 1, (1, 4, 0, -100, 1000, 200)],
    "captured more than the hold": [6, 2, (1, 4, -400, -300, 600, 0)],
    "added to by a step": [7, 2, (1, 4, 0, -300, 1000, 0), (1, 5, 0, 100, 1000, 100)],
}


@pytest.mark.parametrize("case", HELD_WRONG.values(), ids=HELD_WRONG.keys())
def test_held_money_is_moved_by_its_hold_only(beside, case):
    with connect(beside, role=ROLE) as service:
        with pytest.raises(REFUSED), service.transaction():
            step(service, *case)
        with service.transaction():  # what is right is taken, so it was not something else
            step(service, 7, 2, (1, 4, 0, -300, 1000, 0))
        row = service.execute("SELECT remaining, captured FROM ledger.holds").fetchone()
        assert row == (0, 0)


def test_a_new_hold_has_nothing_remaining_or_captured(beside):
    with connect(beside) as owner, owner.transaction():
        new_transaction(owner, 5)
        row = owner.execute(
            "INSERT INTO ledger.holds VALUES (1, 900, 1, 2, 300, 300, 300, NULL, NULL)"
            " RETURNING remaining, captured"
        ).fetchone()
    assert row == (0, 0)


def test_a_schedule_is_settled_once(beside):
    with connect(beside, role=ROLE) as service:
        with service.transaction():
            step(service, 11, 3, (1, 4, 0, 0, 1000, 300))
        with pytest.raises(REFUSED, match="settled"), service.transaction():  # noqa: PT012
            new_transaction(service, 3, 901)
            service.execute(f"{DETAILS} VALUES (1, 901, {DIGEST}, 3)")


def test_a_closed_account_stays_empty_and_an_external_one_has_no_policy(beside):
    policy = "INSERT INTO ledger.policies VALUES (1, 900, {}, {}, 0, NULL, NULL, 4)"
    with connect(beside, role=ROLE) as service:
        with pytest.raises(REFUSED), service.transaction():  # noqa: PT012
            new_transaction(service, 9, amount=0)
            service.execute(policy.format(-1, 1))
        with pytest.raises(REFUSED, match="without an entry"), service.transaction():  # noqa: PT012
            new_transaction(service, 9, amount=0)
            service.execute(policy.format(2, 2))
        with service.transaction():
            new_transaction(service, 9, amount=0)
            service.execute(policy.format(2, 2))
            add_entry(service, 2, 2, 0, 0, 0, 0)
        with pytest.raises(REFUSED, match="closing"), service.transaction():
            write(
                service, [*[("t", 902, 1)], e(902, 1, 4, -30, 970, held=300), e(902, 2, 3, 30, 30)]
            )
        with pytest.raises(REFUSED, match="is closed"), service.transaction():  # noqa: PT012
            new_transaction(service, 9, 903, amount=0)
            opened = policy.replace("900", "903").replace("NULL, 4)", "NULL, 0)")
            service.execute(opened.format(2, 3))


DATED = {  # account, effective_at, seq, amount, recorded_at
    "of another amount": ("1", "d.effective_at", "4", "-31", "t.recorded_at"),
    "of another account": ("2", "d.effective_at", "4", "-30", "t.recorded_at"),
    "that is not there": ("1", "d.effective_at", "5", "-30", "t.recorded_at"),
    "to another moment": ("1", "d.effective_at - interval '1 s'", "4", "-30", "t.recorded_at"),
    "recorded at another": ("1", "d.effective_at", "4", "-30", "t.recorded_at + interval '1 s'"),
}


@pytest.mark.parametrize("values", DATED.values(), ids=DATED.keys())
def test_a_dated_row_is_of_an_existing_entry(beside, values):
    def add(service: Any, account: str, *rest: str) -> None:
        new_transaction(service, 3, amount=30)
        service.execute(
            "INSERT INTO ledger.details (ledger_id, transaction_id, digest, effective_at)"
            f" VALUES (1, 900, {DIGEST}, '2020-01-01Z')"
        )
        moved = "SELECT 1, 1, {}, {}, 900, {}, 0, {}, {}, recorded_at"
        ours, theirs = moved.format(1, 4, -30, 970, 300), moved.format(2, 2, 30, 30, 0)
        of = "FROM ledger.transactions WHERE id = 900"
        service.execute(
            f"INSERT INTO ledger.entries ({ENTRY_COLUMNS}) {ours} {of} UNION ALL {theirs} {of}"
        )
        moment, seq, amount, recorded = rest
        service.execute(
            f"INSERT INTO ledger.dated_entries SELECT 1, {account}, {moment}, {seq}, 900, {amount},"
            f" {recorded} FROM ledger.transactions t"
            " JOIN ledger.details d ON d.transaction_id = t.id WHERE t.id = 900"
        )

    with connect(beside, role=ROLE) as service:
        with pytest.raises(REFUSED, match="no such entry"), service.transaction():
            add(service, *values)
        with service.transaction():  # what is right is taken, so it was not something else
            add(service, "1", "d.effective_at", "4", "-30", "t.recorded_at")


def test_an_account_below_its_floor_goes_no_lower(beside):
    with connect(beside, role=ROLE) as service:
        with service.transaction():  # raised to 8.00 with 7.00 available
            new_transaction(service, 9, amount=0)
            service.execute("INSERT INTO ledger.policies VALUES (1, 900, 1, 4, 800, NULL, 700, 0)")
            add_entry(service, 1, 4, 0, 0, 1000, 300)
        below = "SELECT below_floor FROM ledger.accounts WHERE id = 1"
        assert service.execute(below).fetchone() == (0,)
        with service.transaction():
            write(service, [("t", 903, 1), e(903, 1, 5, -30, 970, held=300), e(903, 2, 2, 30, 30)])
        with service.transaction():
            write(
                service,
                [
                    ("t", 904, 1),
                    e(904, 1, 6, 200, 1170, held=300),
                    e(904, 2, 3, -30, 0),
                    e(904, -1, 2, -170, -1170),
                ],
            )
        assert service.execute(below).fetchone() == (None,)  # it is back, and the floor holds
        with pytest.raises(REFUSED), service.transaction():
            write(
                service, [("t", 905, 1), e(905, 1, 7, -100, 1070, held=300), e(905, 2, 4, 100, 100)]
            )
