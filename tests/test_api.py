"""What the routes answer."""

from tests.conftest import RunningService


def test_open(service: RunningService):
    assert service.open() == 1
