"""Raw sockets: bodies that stop, what is no HTTP, and floods, which may not cost memory."""

import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ledgerservice.postgres.connections import Database
from tests.api.hostile.wire import (
    DEPOSIT,
    HANG_S,
    JSON,
    MAX_BODY_BYTES,
    ask,
    check_refused,
    chunked,
    connect,
    encoded,
    head,
    receive,
)
from tests.databases import url_text
from tests.processes import RunningService, serving

MEMORY_GROWTH_BYTES = 48 * 1024 * 1024


@pytest.fixture(scope="module")
def impatient(new_database: Callable[..., Database]) -> Iterator[RunningService]:
    """A service that waits a second for a body."""
    with serving(
        DATABASE_URL=url_text(new_database()), LEDGER_BODY_TIMEOUT_S="1"
    ) as running_service:
        yield running_service


@pytest.fixture
def untouched(impatient: RunningService) -> Iterator[int]:
    """An account; afterwards it is as empty as before, and the service takes deposits."""
    account = impatient.open()
    yield account
    assert impatient.get(f"/accounts/{account}").json()["version"] == 0
    body = {"account_id": account, "amount": "1", "idempotency_key": "afterwards"}
    assert impatient.post("/deposit/", body).status_code == 200


def everything(connection: socket.socket) -> bytes:
    """What is answered until the service closes the connection."""
    received = bytearray()
    with suppress(ConnectionError):
        while piece := connection.recv(65_536):
            received += piece
    return bytes(received)


def declared(size: int) -> bytes:
    return head("POST", "/deposit/", JSON + b"Content-Length: %d\r\n" % size)


@pytest.mark.parametrize("missing", [1, 10])
def test_a_half_sent_body_moves_nothing(
    impatient: RunningService, untouched: int, missing: int
) -> None:
    body = encoded(DEPOSIT, untouched)
    for _ in range(20):
        with connect(impatient) as connection:
            connection.sendall(declared(len(body)) + body[:-missing])


@pytest.mark.parametrize("closing", [socket.SHUT_WR, None])
def test_a_body_that_stops_is_timed_out(
    impatient: RunningService, untouched: int, closing: int | None
) -> None:
    body = encoded(DEPOSIT, untouched)
    with connect(impatient) as connection:
        connection.sendall(declared(len(body)) + body[:-1])
        if closing is not None:
            connection.shutdown(closing)
            answer = everything(connection)
            assert answer == b"" or b" 408 " in answer.partition(b"\r\n")[0]
        else:
            check_refused(receive(connection), "request_timeout")


def test_a_body_that_drips_is_timed_out(impatient: RunningService, untouched: int) -> None:
    body = encoded(DEPOSIT, untouched)
    with connect(impatient) as connection:
        connection.sendall(declared(len(body)))
        connection.settimeout(0.2)
        for byte in body:
            connection.sendall(bytes([byte]))
            with suppress(TimeoutError):
                if connection.recv(1, socket.MSG_PEEK):
                    break
        connection.settimeout(HANG_S)
        check_refused(receive(connection), "request_timeout")


CHUNKED = JSON + b"Transfer-Encoding: chunked\r\n"

NO_HTTP = {
    "chunk size": head("POST", "/deposit/", CHUNKED) + b"zz\r\n%s\r\n0\r\n\r\n",
    "negative chunk": head("POST", "/deposit/", CHUNKED) + b"-1\r\n%s\r\n0\r\n\r\n",
    "huge chunk": head("POST", "/deposit/", CHUNKED) + b"f" * 17 + b"\r\n%s\r\n0\r\n\r\n",
    "no line end": head("POST", "/deposit/", CHUNKED) + b"1\r\n%s\r\n0\r\n\r\n",
    "two lengths": head("POST", "/deposit/", JSON + b"Content-Length: 1\r\nContent-Length: 90\r\n"),
    "smuggled": head("POST", "/deposit/", CHUNKED + b"Content-Length: 90\r\n") + b"0\r\n\r\n%s",
    "obscured": head("POST", "/deposit/", JSON + b"Transfer-Encoding: xchunked\r\n") + b"%s",
    "negative length": head("POST", "/deposit/", JSON + b"Content-Length: -1\r\n") + b"%s",
    "signed length": head("POST", "/deposit/", JSON + b"Content-Length: +90\r\n") + b"%s",
    "latin-1 length": head("POST", "/deposit/", JSON + b"Content-Length: 9\xb2\r\n") + b"%s",
    "huge length": head("POST", "/deposit/", JSON + b"Content-Length: %d\r\n" % 10**30) + b"%s",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no such version": b"GET /health/live HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "no such method": b"STEAL /accounts/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "raw bytes in path": b"GET /accounts/\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "NUL in path": b"GET /accounts/\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "NUL in header": b"GET /accounts/ HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
    "space in name": b"GET /accounts/ HTTP/1.1\r\nHost : localhost\r\nX : 1\r\n\r\n",
    "long path": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "noise": bytes(range(256)) * 16,
}


@pytest.mark.parametrize("name", NO_HTTP)
def test_what_is_no_http_is_refused_and_closed(
    impatient: RunningService, untouched: int, name: str
) -> None:
    request = NO_HTTP[name].replace(b"%s", encoded(DEPOSIT, untouched))
    with connect(impatient) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = everything(connection)
    assert answer == b"" or re.match(rb"HTTP/1\.[01] 4\d\d ", answer), answer
    assert answer.count(b"HTTP/1.1 ") <= 1


def test_requests_in_one_packet_are_answered_in_order(impatient: RunningService) -> None:
    account = impatient.open()
    requests = [
        f'{{"account_id": {account}, "amount": "{1 + n % 2}", "idempotency_key": "{n // 4}"}}'
        for n in range(40)
    ]
    with connect(impatient) as connection:
        connection.sendall(
            b"".join(declared(len(request)) + request.encode() for request in requests)
        )
        answers = [receive_one(connection) for _ in requests]
    for number, (status, body) in enumerate(answers):
        assert status == (422 if number % 2 else 200)
        if not number % 2:
            assert body == answers[number // 4 * 4][1]
    assert impatient.get(f"/accounts/{account}").json()["balance"] == "10.00"


def receive_one(connection: socket.socket) -> tuple[int, bytes]:
    """The next answer, without a byte of the one after it."""
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        received += connection.recv(1)
    length = re.search(rb"content-length: (\d+)", received)
    assert length is not None
    body = b""
    while len(body) < int(length[1]):
        body += connection.recv(int(length[1]) - len(body))
    return int(received.split()[1]), body


def test_what_is_wrong_after_a_deposit_does_not_deny_it(impatient: RunningService) -> None:
    """A refusal on the wire of what was posted would be believed."""
    account = impatient.open()
    body = encoded(DEPOSIT, account)
    for garbage in (b"garbage\r\n\r\n", b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n"):
        with connect(impatient) as connection:
            connection.sendall(declared(len(body)) + body + garbage)
            connection.shutdown(socket.SHUT_WR)
            answer = everything(connection)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 200 "), answer
    assert impatient.get(f"/accounts/{account}").json()["version"] <= 1


# Memory


def resident_bytes(service: RunningService) -> int:
    """The service's memory."""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@pytest.fixture
def bounded(impatient: RunningService) -> Iterator[None]:
    """Fails the test if the service has grown, or does not answer any more."""
    impatient.open()
    before = resident_bytes(impatient)
    yield
    assert resident_bytes(impatient) - before < MEMORY_GROWTH_BYTES
    impatient.open()


def flood(service: RunningService, start: bytes, piece: bytes, pieces: int) -> bytes:
    """Sends as long as the service takes it, at most HANG_S / 10 s, without reading an answer."""
    until = time.monotonic() + HANG_S / 10
    with connect(service) as connection, suppress(OSError):
        connection.sendall(start)
        connection.settimeout(1)
        for _ in range(pieces):
            connection.sendall(piece)
            if time.monotonic() > until:
                break
        return connection.recv(4_096)
    return b""


@pytest.mark.usefixtures("bounded")
def test_large_bodies_do_not_stay_in_memory(impatient: RunningService) -> None:
    body = b" " * 1_000_000
    for number in range(200):
        with suppress(ConnectionError):  # refused, and closed, while it was still being sent
            reply = (
                chunked(impatient, body, 65_536)
                if number % 2
                else ask(impatient, "POST", "/deposit/", body)
            )
            check_refused(reply, "body_too_large")


@pytest.mark.usefixtures("bounded")
def test_an_endless_body_does_not_stay_in_memory(impatient: RunningService) -> None:
    flood(impatient, declared(10**9), b" " * 1_000_000, 100)


@pytest.mark.usefixtures("bounded")
def test_many_half_sent_bodies_do_not_stay_in_memory(impatient: RunningService) -> None:
    connections = [connect(impatient) for _ in range(200)]
    for connection in connections:
        connection.sendall(declared(MAX_BODY_BYTES) + b" " * (MAX_BODY_BYTES - 1))
    for connection in connections:
        check_refused(receive(connection), "request_timeout")
        connection.close()


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: ", b"x" * 1_000_000),
        (b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n", b"X: x\r\n" * 100_000),
        (b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n", b"x" * 1_000_000),
        (b"GET /", b"x" * 1_000_000),
        (head("POST", "/deposit/", CHUNKED) + b"1;", b"x" * 1_000_000),
        (head("POST", "/deposit/", CHUNKED) + b"1\r\n \r\n0\r\n", b"X: x\r\n" * 100_000),
    ],
    ids=["value", "headers", "name", "path", "chunk extension", "trailers"],
)
def test_an_endless_head_does_not_stay_in_memory(
    impatient: RunningService, start: bytes, piece: bytes
) -> None:
    flood(impatient, start, piece, 100)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize(
    "request_bytes",
    [head("GET", "/health/live", b""), head("GET", "/openapi.json", b"")],
    ids=["small answers", "large answers"],
)
def test_requests_without_end_do_not_stay_in_memory(
    impatient: RunningService, request_bytes: bytes
) -> None:
    flood(impatient, b"", request_bytes * 10_000, 100)


# Whatever else the description of the interface allows, or forbids
