"""What the service manager hears from a service: sd_notify(3)."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from ledgerservice.postgres.connections import Database
from tests.databases import url_text
from tests.processes import ROOT, environment, free_port, serving


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        yield listener


@pytest.mark.parametrize(
    "options",
    [
        (),
        pytest.param(("--workers", "2"), marks=pytest.mark.long),
        pytest.param(("--acceptors", "2"), marks=pytest.mark.thorough),
    ],
    ids=str,
)
@pytest.mark.parametrize("drain_s", ["0", pytest.param("1", marks=pytest.mark.thorough)])
def test_it_is_ready_when_it_serves_and_says_when_it_stops(
    database: Database, manager: socket.socket, drain_s: str, options: Sequence[str]
) -> None:
    values = {"NOTIFY_SOCKET": manager.getsockname(), "LEDGER_DRAIN_S": drain_s}
    with serving(options=options, DATABASE_URL=url_text(database), **values) as service:
        assert manager.recv(100) == b"READY=1"
        assert httpx.get(f"{service.base}/health/ready").status_code == 200
        service.process.send_signal(signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"
        assert service.process.wait(30) == 0
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):  # the workers say nothing themselves
        manager.recv(100)


@pytest.mark.parametrize(
    "options",
    [
        [],
        pytest.param(["--workers", "2"], marks=pytest.mark.thorough),
        pytest.param(["--acceptors", "2"], marks=pytest.mark.thorough),
    ],
    ids=str,
)
def test_it_is_not_ready_if_it_cannot_start(
    database: Database, manager: socket.socket, options: list[str]
) -> None:
    values = environment(
        DATABASE_URL=url_text(database),
        NOTIFY_SOCKET=manager.getsockname(),
        LEDGER_METRICS_PORT=str(free_port()),
        LEDGER_METRICS_HOST="192.0.2.1",  # of no machine
    )
    command = [sys.executable, "-m", "ledgerservice", "serve", "--port", str(free_port()), *options]
    done = subprocess.run(
        command, env=values, cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "is ready" not in done.stdout and "Traceback" not in done.stderr
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(100)


def test_an_abstract_socket_and_none_at_all(database: Database) -> None:
    name = f"ledgerservice-test-{id(database)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(30)
        with serving(DATABASE_URL=url_text(database), NOTIFY_SOCKET=f"@{name}"):
            assert listener.recv(100) == b"READY=1"
    with serving(DATABASE_URL=url_text(database), NOTIFY_SOCKET="/nowhere") as service:
        assert service.stop() == 0
