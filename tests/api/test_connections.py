"""Slow and many connections: they end, they are refused, and nobody else is locked out."""

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.api.hostile.wire import JSON, check_refused, connect, head, receive
from tests.databases import url_text
from tests.processes import RunningService, serving, wait_for

OPEN_FILES = 300
HALF_A_HEAD = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nX"
WHOLE = head("GET", "/health/live", b"")


@pytest.fixture(scope="module")
def impatient(new_database) -> Iterator[RunningService]:
    """A service that waits a second for a head, and three for a request."""
    values = {"LEDGER_HEAD_TIMEOUT_S": "1", "LEDGER_KEEP_ALIVE_S": "3", "LEDGER_STREAM_IDLE_S": "3"}
    with serving(DATABASE_URL=url_text(new_database()), **values) as service:
        yield service


def is_closed(connection: socket.socket) -> bool:
    """Whether the service has closed the connection, whatever it sent before."""
    try:
        while select.select([connection], [], [], 0)[0]:
            if not connection.recv(65_536):
                return True
    except ConnectionError:
        return True
    return False


STARTS = {
    "nothing": b"",
    "half a head": HALF_A_HEAD,
    "line ends": b"\r\n",
    "half a head after a request": WHOLE + HALF_A_HEAD,
    "line ends after a request": WHOLE + b"\r\n",
    "a request": WHOLE,
    "a refused request without its body": head(
        "POST", "/deposit/", b"Content-Type: text/plain\r\nContent-Length: 9\r\n"
    ),
}


@pytest.mark.thorough
def test_connections_without_a_request_are_closed(impatient):
    """Also those that go on sending, a byte now and then."""
    with ExitStack() as stack:
        still_open = {}
        for name, start in STARTS.items():
            for drip in (b"", b"X") if "half" in name else (b"", b"X", b"\r\n"):
                connection = stack.enter_context(connect(impatient))
                connection.sendall(start)
                still_open[name, drip] = connection
        for _ in range(40):
            if not still_open:
                break
            time.sleep(0.25)
            for (name, drip), connection in list(still_open.items()):
                with suppress(ConnectionError):
                    connection.sendall(drip)
                if is_closed(connection):
                    del still_open[name, drip]
        assert not still_open


@pytest.mark.thorough
def test_a_client_that_takes_no_answer_is_cut_off(impatient):
    with connect(impatient) as connection:
        connection.sendall(head("GET", "/openapi.json", b"") * 200)
        process = psutil.Process(impatient.process.pid)
        local = connection.getsockname()[1]
        assert wait_for(
            lambda: not any(c.raddr and c.raddr.port == local for c in process.net_connections()),
            limit_s=20,
            step_s=0.2,
        )


@contextmanager
def crowd(service: RunningService, number: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """That many connections on which these bytes were sent."""
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(service)) for _ in range(number)]
        for connection in connections:
            with suppress(ConnectionError):
                connection.sendall(sent)
        yield connections


def is_healthy(service: RunningService) -> bool:
    paths = ("/health/live", "/health/ready")
    return all(
        httpx.get(service.base + path, timeout=10, verify=False).status_code == 200
        for path in paths
    )


def deposit_when_let_in(service: RunningService, account: int, key: str) -> int:
    """The number of attempts of a client that repeats what is refused with 503, or cut off."""
    body = {"account_id": account, "amount": "1", "idempotency_key": key}
    for attempt in range(1, 61):
        with suppress(httpx.TransportError):
            answer = httpx.post(service.base + "/deposit/", json=body, timeout=10, verify=False)
            if answer.status_code == 200:
                return attempt
            assert (answer.status_code, answer.json()["retry"]) == (503, "same_key")
            assert answer.headers["Retry-After"] == "1"
        time.sleep(0.25)
    raise AssertionError("it was never let in")


@pytest.mark.parametrize(
    "sent",
    [b"", HALF_A_HEAD, WHOLE, head("POST", "/deposit/", JSON + b"Content-Length: 99\r\n")],
    ids=["silent", "half a head", "idle", "half a body"],
)
def test_a_crowd_locks_nobody_out(database, tmp_path, sent):
    log = tmp_path / "log"
    values = {"OPEN_FILES": str(OPEN_FILES), "LOGGED_TO": str(log)}
    with serving(DATABASE_URL=url_text(database), **values) as service:
        account = service.open()
        with crowd(service, 400, sent):
            for number in range(5):
                assert is_healthy(service), number
            deposit_when_let_in(service, account, "in the crowd")
            process = psutil.Process(service.process.pid)
            assert OPEN_FILES / 2 < process.num_fds() < OPEN_FILES
            assert is_healthy(service)
        deposit_when_let_in(service, account, "afterwards")
        assert service.get(f"/accounts/{account}").json()["balance"] == "2.00"
    lines = log.read_text().splitlines()
    assert len([line for line in lines if "LEDGER_MAX_CONNECTIONS" in line]) == 1, lines
    assert len(lines) < 10, lines


def test_the_limit_of_open_files_is_raised(database):
    values = {"OPEN_FILES": "100:400"}
    with serving(DATABASE_URL=url_text(database), **values) as service:
        limits = psutil.Process(service.process.pid).rlimit(psutil.RLIMIT_NOFILE)
        assert limits == (400, 400)


BUDGET_BYTES = 16_777_216
BATCH_BYTES = 4_194_304


def test_withheld_batches_stay_within_the_budget(database, tmp_path: Path):
    log = tmp_path / "log"
    values = {"LEDGER_BODY_BUDGET_BYTES": str(BUDGET_BYTES), "LOGGED_TO": str(log)}
    with serving(DATABASE_URL=url_text(database), LEDGER_BODY_TIMEOUT_S="30", **values) as service:
        account = service.open()
        headers = JSON + b"Content-Length: %d\r\n" % BATCH_BYTES
        body = b" " * (BATCH_BYTES - 1)
        with crowd(service, 60, head("POST", "/batches/", headers)) as connections:
            for connection in connections:
                with suppress(ConnectionError):
                    connection.sendall(body)
            assert wait_for(lambda: len(answered(connections)) >= 56)
            for connection in answered(connections):
                check_refused(receive(connection), "overloaded")
            assert deposit_when_let_in(service, account, "meanwhile") == 1
        movement = {"type": "DEPOSIT", "account_id": account, "amount": "1"}
        batch = {"movements": [{**movement, "idempotency_key": f"{n}"} for n in range(9_000)]}

        def is_posted() -> bool:
            answer = service.post("/batches/", batch)
            if answer.status_code == 503:
                return False
            assert {result["status"] for result in answer.json()["results"]} == {200}
            return True

        assert wait_for(is_posted)
    assert log.read_text().count("LEDGER_BODY_BUDGET_BYTES") == 1


def answered(connections: list[socket.socket]) -> list[socket.socket]:
    return select.select(connections, [], [], 0)[0]
