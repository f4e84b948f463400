"""What the service manager hears from a service: sd_notify(3)."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ledgerservice.postgres.connections import Database
from tests.databases import url_text
from tests.processes import serving


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        yield listener


@pytest.mark.parametrize("drain_s", ["0", "1"])
def test_it_is_ready_when_it_serves_and_says_when_it_stops(
    database: Database, manager: socket.socket, drain_s: str
) -> None:
    values = {"NOTIFY_SOCKET": manager.getsockname(), "LEDGER_DRAIN_S": drain_s}
    with serving(DATABASE_URL=url_text(database), **values) as service:
        assert manager.recv(100) == b"READY=1"
        assert httpx.get(f"{service.base}/health/ready").status_code == 200
        service.process.send_signal(signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"
        assert service.process.wait(30) == 0


def test_an_abstract_socket_and_none_at_all(database: Database) -> None:
    name = f"ledgerservice-test-{id(database)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(30)
        with serving(DATABASE_URL=url_text(database), NOTIFY_SOCKET=f"@{name}"):
            assert listener.recv(100) == b"READY=1"
    with serving(DATABASE_URL=url_text(database), NOTIFY_SOCKET="/nowhere") as service:
        assert service.stop() == 0
