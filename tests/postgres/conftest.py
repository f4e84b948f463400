"""Fixtures that several tests of the database use."""

from collections.abc import Callable

import pytest

from ledgerservice.domain.instructions import Kind, Movement
from ledgerservice.postgres.connections import Database
from tests.postings import deposit, open_accounts, post


@pytest.fixture(scope="module")
def used_once(new_database: Callable[..., Database]) -> Database:
    database = new_database()
    open_accounts(database, "USD", "USD", "INR")
    decline = Movement(Kind.WITHDRAWAL, 2, None, "9", "declined")
    post(database, [deposit(1, 1), deposit(3, 1), decline])
    return database


@pytest.fixture
def used(new_database: Callable[..., Database], used_once: Database) -> Database:
    """Accounts 1 (USD 1.00), 2 (USD 0), 3 (INR 1.00); transactions 1, 2 posted, 3 declined."""
    return new_database(used_once)
