"""`serve` writes its answers by itself: byte by byte as uvicorn does for the same application."""

import re
import socket
from collections.abc import Iterator

import pytest

from tests.api.hostile.movements import REQUESTS
from tests.api.hostile.plain import plain_uvicorn
from tests.api.hostile.wire import connect
from tests.databases import url_text
from tests.processes import RunningService, free_port, serving
from tests.telemetry.scraping import families
from tests.telemetry.scraping import value as value_of

Services = tuple[RunningService, RunningService]
OWN = b"X-Request-Id: one\r\n"
READS = ["/accounts/1", "/accounts/1/", "/accounts/1/history?limit=2", "/accounts/1?as_of=x"]
READS += ["/accounts/77", "/accounts/x", "/accounts/1/keys/k", "/transactions/1", "/holds/1"]
READS += ["/accounts/1/history?limit=0", "/%61ccounts/1", "/deposit", "/nothing", "/health/live"]


@pytest.fixture(scope="module")
def port() -> int:
    """Where the metrics of `serve` are."""
    return free_port()


@pytest.fixture(scope="module")
def services(new_database, port: int) -> Iterator[Services]:
    """`ledgerservice serve`, and the same application under uvicorn, on one database."""
    url = url_text(new_database())
    metrics = {"LEDGER_METRICS_PORT": str(port)}
    with (
        serving(DATABASE_URL=url, **metrics) as ours,
        plain_uvicorn("httptools", DATABASE_URL=url) as plain,
    ):
        for _ in range(2):
            ours.open(balance="100.00")
        yield ours, plain


def request(
    method: str, path: str, headers: dict[str, str], content: bytes, *, close: bool = False
) -> tuple[bytes, bytes]:
    """The head and the body of a request."""
    headers = {"Content-Length": str(len(content)), **headers} if method == "POST" else headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if close:
        lines += "Connection: close\r\n"
    line = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
    return line.encode() + lines.encode() + OWN + b"\r\n", content


def sent(service: RunningService, *pieces: bytes) -> bytes:
    """The bytes of the answers until the service closes, without the date and uvicorn's name."""
    with connect(service) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
    assert answer
    return re.sub(rb"(date: [^\r]+|server: uvicorn)\r\n", b"", answer)


@pytest.mark.parametrize("name", sorted(REQUESTS.keys() - {"a declared length that lies"}))
def test_movements_are_answered_by_the_same_bytes(services: Services, name: str) -> None:
    path, headers, content = REQUESTS[name]
    body = content if isinstance(content, bytes) else content.encode()
    parts = request("POST", path, headers, body, close=True)
    first, second = services
    one, two = sent(first, b"".join(parts)), sent(second, b"".join(parts))
    assert one == two.replace(b"idempotency-replayed: true\r\n", b"")
    assert sent(first, b"".join(parts)) == sent(first, *parts) == two


@pytest.mark.parametrize("path", READS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_reads_are_answered_by_the_same_bytes(services: Services, method: str, path: str) -> None:
    head, _ = request(method, path, {}, b"", close=True)
    ours, plain = (sent(service, head) for service in services)
    assert ours == plain
    assert (method == "HEAD") == ours.endswith(b"\r\n\r\n")


def test_the_connection_is_kept_or_closed_alike(services: Services) -> None:
    for version, header, last in (("1.0", "", 1), ("1.1", "", 2), ("1.1", "Connection: close", 1)):
        lines = f"GET /accounts/1 HTTP/{version}\r\nHost: localhost\r\n{header}"
        head = lines.strip().encode() + b"\r\n" + OWN + b"\r\n"
        ending, _ = request("GET", "/accounts/2", {}, b"", close=True)
        ours, plain = (sent(service, head + ending) for service in services)
        assert ours == plain
        assert ours.count(b"HTTP/1.1 200") == last


COUNTS = ("ledger_request_duration_seconds_count", "ledger_authentications", "ledger_refusals")


def counted(port: int) -> dict[tuple[str, ...], float]:
    """The samples of the metrics that each request moves, without those of scrapes."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families(port).values()
        for sample in family.samples
        if sample.name.startswith(COUNTS) and not sample.name.endswith("_created")
    }


def test_whole_requests_and_pieces_are_counted_alike(services: Services, port: int) -> None:
    """The first is taken from the connection at once, the second by the application."""
    ours, _ = services
    path, headers, movement = REQUESTS["a deposit"]
    assert isinstance(movement, str)
    ending, _ = request("GET", "/health/live", {}, b"", close=True)
    rises = []
    for name in ("pieces", "whole"):
        before = counted(port)
        for content in (movement.replace('"k"', f'"{name}"'), "{"):
            parts = request("POST", path, headers, content.encode())
            pieces = [b"".join(parts)] if name == "whole" else list(parts)
            assert sent(ours, *pieces, ending).count(b"HTTP/1.1 ") == 2
        after = counted(port)
        rises.append({name: value - before.get(name, 0) for name, value in after.items()})
        assert value_of(port, "ledger_requests_in_flight") == 0
    assert rises[0] == rises[1]
    assert sum(rises[0].values()) == 4 + 4 + 1  # durations, callers, the refusal of "{"
