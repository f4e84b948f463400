from collections.abc import Iterator

import pytest

from tests.api.hostile.wire import state
from tests.processes import RunningService


@pytest.fixture
def pair(service: RunningService) -> Iterator[tuple[int, int]]:
    """Two funded accounts. Fails the test if any money of theirs has moved."""
    accounts = service.open(balance="100.00"), service.open(balance="100.00")
    before = state(service, *accounts)
    yield accounts
    assert state(service, *accounts) == before
    assert service.get(f"/accounts/{accounts[0]}/keys/hostile").status_code == 404
