"""Fixtures that several tests of the database use."""

from collections.abc import Callable

import pytest

from ledgerservice.domain.instructions import Kind, Movement
from ledgerservice.postgres.connections import Database
from tests.postings import deposit, open_accounts, post
from tests.servers import MAJORS

COSTS = ("test_plans", "test_account_costs", "test_query_costs")
"""The files that count what statements touch. A plan differs from version to version."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of costs on every supported version that this machine has."""
    name = metafunc.module.__name__.rpartition(".")[2]
    if name in COSTS and "server_url" in metafunc.fixturenames:
        metafunc.parametrize("server_url", MAJORS, indirect=True, scope="session")


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
