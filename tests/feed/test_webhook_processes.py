"""Webhooks by https, with an authority of one's own; and from a process that only delivers."""

import ipaddress
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from ledgerservice.postgres.connections import Database
from tests.access.certificates import Authority
from tests.databases import url_text
from tests.feed.endpoints import QUICK, Book, add, delivered, pay
from tests.feed.receiver import Receiver, receiving
from tests.processes import environment, serving, wait_for

pytestmark = pytest.mark.processes


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def _issued(authority: Authority, address: str) -> Path:
    """A file with a certificate for an address, and its key."""
    name = x509.IPAddress(ipaddress.ip_address(address))
    authority.issue(address, f"CN={address}", name)
    parts = [authority.folder / f"{address}.{suffix}" for suffix in ("pem", "key")]
    file = authority.folder / f"{address} whole.pem"
    file.write_bytes(b"".join(part.read_bytes() for part in parts))
    return file


def attempts(service: Book, number: int) -> list[tuple[int | None, str | None]]:
    listed = service.get(f"/webhooks/{number}/deliveries").json()
    return [(one["status"], one["error"]) for one in listed]


@pytest.mark.thorough
def test_a_receiver_with_a_certificate_of_ones_own_authority(
    database: Database, authority: Authority, tmp_path: Path
) -> None:
    """The authority in SSL_CERT_FILE is trusted; a certificate for another address is not."""
    values = {"DATABASE_URL": url_text(database), "SSL_CERT_FILE": str(authority.file), **QUICK}
    good, bad = _issued(authority, "127.0.0.1"), _issued(authority, "127.0.0.2")
    with (
        receiving(tmp_path / "good", good) as receiver,
        receiving(tmp_path / "bad", bad) as other,
        serving(**values) as running,
    ):
        service = Book(running)
        trusted, refused = add(service, receiver), add(service, other)
        ids = pay(service, service.open(), 3)
        assert delivered(receiver, ids)
        assert wait_for(lambda: (200, None) in attempts(service, trusted["id"]), 20)
        assert wait_for(lambda: bool(attempts(service, refused["id"])), 20)
        assert set(attempts(service, refused["id"])) == {(None, "connect_failed")}
        assert other.got() == []


def test_a_receiver_of_an_authority_that_nobody_trusts_gets_nothing(
    database: Database, authority: Authority, tmp_path: Path
) -> None:
    with (
        receiving(tmp_path / "receiver", _issued(authority, "127.0.0.1")) as receiver,
        serving(DATABASE_URL=url_text(database), **QUICK) as running,
    ):
        service = Book(running)
        number = add(service, receiver)["id"]
        pay(service, service.open(), 1)
        assert wait_for(lambda: bool(attempts(service, number)), 20)
        assert set(attempts(service, number)) == {(None, "connect_failed")}
        assert receiver.got() == []


@contextmanager
def delivering(database: Database) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "ledgerservice", "publish", "--webhooks"]
    values = environment(DATABASE_URL=url_text(database), **QUICK)
    with subprocess.Popen(command, env=values) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(tmp_path / "receiver") as running:
        yield running


@pytest.mark.thorough
def test_a_process_of_its_own_delivers_what_the_service_does_not(
    database: Database, receiver: Receiver
) -> None:
    """Also after a kill -9, and it ends by SIGTERM."""
    values = {"DATABASE_URL": url_text(database), **QUICK}
    with serving(LEDGER_WEBHOOKS="false", **values) as running:
        service = Book(running)
        add(service, receiver)
        account = service.open()
        first = pay(service, account, 3)
        assert not wait_for(lambda: bool(receiver.got()), 3)
        with delivering(database) as process:
            assert delivered(receiver, first)
            process.send_signal(signal.SIGKILL)
        second = pay(service, account, 3, "q")
        with delivering(database) as process:
            assert delivered(receiver, second)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        last = pay(service, account, 1, "r")
        assert not wait_for(lambda: last[0] in receiver.events(), 3)
