"""Requests exactly as they are sent, byte for byte, and checks of how they are refused."""

import json
import socket
from contextlib import suppress
from http.client import HTTPResponse
from typing import Any, NamedTuple

from ledgerservice.api.http.catalogue import CATALOGUE
from tests.processes import RunningService

MARK = "zqxmark"
"""Planted in what is sent; no refusal may hold it."""

MAX_BODY_BYTES = 131_072
HANG_S = 30

JSON = b"Content-Type: application/json\r\n"

DEPOSIT = '{"account_id": @, "amount": "1", "idempotency_key": "hostile"}'
"""A body; @ stands for the id of an account."""

HUGE = "9" * 60_000


class Reply(NamedTuple):
    """An answer as it came over the wire."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def connect(service: RunningService) -> socket.socket:
    host, _, port = service.base.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=HANG_S)


def receive(connection: socket.socket) -> Reply:
    response = HTTPResponse(connection)
    response.begin()
    return Reply(response.status, response.headers, response.read())


def head(method: str, target: str, headers: bytes) -> bytes:
    return (
        f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n".encode("latin-1") + headers + b"\r\n"
    )


def ask(
    service: RunningService,
    method: str,
    target: str,
    body: bytes | None = None,
    headers: bytes = JSON,
) -> Reply:
    """One request, sent exactly as it is given, on a connection of its own."""
    if body is not None:
        headers += b"Content-Length: %d\r\n" % len(body)
    with connect(service) as connection:
        connection.sendall(head(method, target, headers + b"Connection: close\r\n") + (body or b""))
        return receive(connection)


def check_refused(reply: Reply, code: str) -> dict[str, Any]:
    """The catalogue's problem+json, whole, without an echo."""
    assert reply.status == CATALOGUE[code].status, reply
    assert reply.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = reply.json
    assert (problem["code"], problem["status"]) == (code, reply.status)
    assert problem["detail"].startswith(CATALOGUE[code].detail)
    assert problem["retry"] == CATALOGUE[code].retry
    assert problem["type"].endswith(code)
    assert problem["title"]
    assert MARK not in reply.body.decode()
    assert MARK not in str(reply.headers)
    return problem


def state(service: RunningService, *accounts: int) -> list[Any]:
    """Everything that the service says of the accounts."""
    paths = [f"/accounts/{a}{part}" for a in accounts for part in ("", "/history")]
    return [service.get(path).json() for path in paths]


def encoded(body: str | bytes, account: int) -> bytes:
    content = body if isinstance(body, bytes) else body.encode()
    return content.replace(b"@", str(account).encode())


def chunked(service: RunningService, body: bytes, size: int = 4_096) -> Reply:
    """A deposit's body in chunks, without a Content-Length."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    with connect(service) as connection:
        headers = JSON + b"Transfer-Encoding: chunked\r\nConnection: close\r\n"
        connection.sendall(head("POST", "/deposit/", headers))
        with suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            connection.sendall(b"0\r\n\r\n")
        return receive(connection)


def short(value: object) -> str:
    return ascii(value)[:40]
