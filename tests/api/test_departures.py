"""Clients and databases that go away in the middle of an answer: a line in the log, no more."""

import json
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPResponse, IncompleteRead

import pytest

from tests.api.hostile.wire import connect, head
from tests.databases import connect as database_connection
from tests.databases import url_text, waiting_for_a_lock
from tests.processes import RunningService, serving, wait_for

CHUNKED = b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n"
READERS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'ledgerservice'
"""


def items(account: int, first: int, number: int) -> list[dict]:
    return [
        {"type": "DEPOSIT", "account_id": account, "amount": "1", "idempotency_key": f"{n}"}
        for n in range(first, first + number)
    ]


def lines(account: int, first: int, number: int) -> bytes:
    content = b"".join(json.dumps(item).encode() + b"\n" for item in items(account, first, number))
    return b"%x\r\n%s\r\n" % (len(content), content)


@pytest.fixture(scope="module")
def logged(new_database, tmp_path_factory):
    """A service whose log is read, an account with a long statement, and the database."""
    database, log = new_database(), tmp_path_factory.mktemp("departures") / "log"
    with serving(DATABASE_URL=url_text(database), LOGGED_TO=str(log)) as service:
        account = service.open()
        answer = service.post("/batches/", {"movements": items(account, 0, 9_000)})
        assert {result["status"] for result in answer.json()["results"]} == {200}
        yield service, account, database, lambda: log.read_text().splitlines()


def ask_for_statement(service: RunningService, account: int, form: str) -> socket.socket:
    """A connection on which a statement is sent, of which the system takes little."""
    host, _, port = service.base.removeprefix("http://").partition(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.settimeout(30)
    connection.connect((host, int(port)))
    connection.sendall(head("GET", f"/accounts/{account}/statement?format={form}", b""))
    return connection


def reset(connection: socket.socket) -> None:
    """Close a connection as the system does for a client that is killed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_until_it_waits(connection: socket.socket, database) -> None:
    connection.settimeout(0.1)
    while not waiting_for_a_lock(database):
        with suppress(TimeoutError):
            assert connection.recv(65_536)


def leave_statement(service: RunningService, account: int, database, form: str) -> None:
    """While the next piece of a statement is read."""
    connection = ask_for_statement(service, account, form)
    connection.recv(1)
    with database_connection(database) as owner, owner.transaction():
        owner.execute("LOCK TABLE ledger.entries")
        read_until_it_waits(connection, database)
        reset(connection)


def leave_stream(service: RunningService, account: int, database) -> None:
    """While lines are posted."""
    connection = connect(service)
    with database_connection(database) as owner, owner.transaction():
        owner.execute("SELECT FROM ledger.accounts WHERE id = %s FOR UPDATE", [account])
        connection.sendall(head("POST", "/batches/", CHUNKED))
        for number in range(20):
            connection.sendall(lines(account, 20_000 + number * 50, 50))
        assert wait_for(lambda: waiting_for_a_lock(database))
        reset(connection)


@pytest.mark.parametrize(
    "leave",
    [partial(leave_statement, form="csv"), partial(leave_statement, form="html"), leave_stream],
    ids=["CSV", "HTML", "stream"],
)
def test_a_client_that_goes_away_is_one_line(logged, leave: Callable):
    service, account, database, log = logged
    with database_connection(database) as owner:
        before, connections = len(log()), owner.execute(READERS).fetchall()
        leave(service, account, database)
        assert wait_for(lambda: len(log()) > before)
        assert service.get(f"/accounts/{account}/statement?format=csv").status_code == 200
        (line,) = log()[before:]
        assert "a client went away" in line
        assert set(connections) <= set(owner.execute(READERS).fetchall())


def test_a_statement_without_its_database_is_cut_off(logged):
    service, account, database, log = logged
    before = len(log())
    connection = ask_for_statement(service, account, "csv")
    response = HTTPResponse(connection)
    response.begin()
    with database_connection(database) as owner, owner.transaction():
        owner.execute("LOCK TABLE ledger.entries")
        while not waiting_for_a_lock(database):
            assert response.read(10_000)
        owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        )
        with pytest.raises(IncompleteRead):
            response.read()
    assert 1 <= len(log()) - before <= 3, log()[before:]
    assert not [line for line in log()[before:] if "Traceback" in line]
