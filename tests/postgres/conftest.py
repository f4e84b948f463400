"""Fixtures that several tests of the database use."""

from collections.abc import Callable

import pytest

from ledgerservice.domain.instructions import Kind, Movement
from ledgerservice.postgres.connections import Database
from tests.postgres.costs.large import FILL
from tests.postgres.costs.rows import fill
from tests.postings import deposit, open_accounts, post
from tests.servers import MAJORS

SERVERS = {
    "test_plans": MAJORS,
    "test_account_costs": MAJORS,
    "test_query_costs": MAJORS,
    "test_effective_costs": MAJORS,
    "test_session": MAJORS[::2],
}
"""The servers of the files whose subject differs from version to version: plans and settings."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of SERVERS on each of its servers that this machine has."""
    servers = SERVERS.get(metafunc.module.__name__.rpartition(".")[2])
    if servers is not None and "server_url" in metafunc.fixturenames:
        metafunc.parametrize("server_url", servers, indirect=True, scope="session")


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


@pytest.fixture(scope="module")
def large(new_database: Callable[..., Database]) -> Database:
    """A ledger of 120,000 transactions, half of them of account 1."""
    database = new_database()
    fill(database, FILL)
    return database
