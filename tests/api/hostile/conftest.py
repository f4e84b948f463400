from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.hostile.wire import state
from tests.processes import RunningService


@pytest.fixture(scope="module")
def funded(service: RunningService) -> tuple[int, int, list[Any]]:
    """Two funded accounts, and all that the service says of them."""
    accounts = service.open(balance="100.00"), service.open(balance="100.00")
    return *accounts, state(service, *accounts)


@pytest.fixture
def pair(service: RunningService, funded: tuple[int, int, list[Any]]) -> Iterator[tuple[int, int]]:
    """Two funded accounts. Fails the test if any money of theirs has moved."""
    *accounts, before = funded
    yield accounts[0], accounts[1]
    assert state(service, *accounts) == before
    assert service.get(f"/accounts/{accounts[0]}/keys/hostile").status_code == 404
