"""Heads that a proxy, a page of another site or a smuggler sends: through both servers."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import RemoteDisconnected

import pytest

from ledgerservice.postgres.connections import Database
from tests.api.hostile.plain import plain_uvicorn
from tests.api.hostile.wire import DEPOSIT, JSON, Reply, check_refused, connect, encoded, receive
from tests.databases import url_text
from tests.processes import RunningService, serving

HOST = b"Host: localhost\r\n"


@pytest.fixture(scope="module", params=["serve", "httptools", "h11"])
def service(
    request: pytest.FixtureRequest, new_database: Callable[..., Database]
) -> Iterator[RunningService]:
    """`ledgerservice serve`, and the same application under uvicorn as it comes."""
    values = {"DATABASE_URL": url_text(new_database()), "LEDGER_ALLOWED_HOSTS": "pay.example"}
    if request.param == "serve":
        with serving(**values) as running:
            yield running
        return
    with plain_uvicorn(request.param, **values) as running:
        yield running


@pytest.fixture(scope="module")
def account(service: RunningService) -> int:
    return service.open(balance="100.00")


def send(service: RunningService, *parts: bytes) -> Reply:
    with connect(service) as connection:
        connection.sendall(b"".join(parts))
        return receive(connection)


def deposit(
    service: RunningService, account: int, headers: bytes, version: bytes = b"1.1"
) -> Reply:
    body = encoded(DEPOSIT, account)
    length = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    return send(service, b"POST /deposit/ HTTP/%b\r\n" % version, headers, JSON, length, body)


def untouched(service: RunningService, account: int) -> bool:
    keys = ("hostile", "trailer", "k")
    return all(service.get(f"/accounts/{account}/keys/{key}").status_code == 404 for key in keys)


REFUSED = {
    "a foreign host": (b"Host: evil.example\r\n", "host_not_allowed"),
    "a name that begins like ours": (b"Host: localhost.evil.example\r\n", "host_not_allowed"),
    "an address": (b"Host: 192.0.2.1:8000\r\n", "host_not_allowed"),
    "an empty host": (b"Host:\r\n", "host_not_allowed"),
    "no host": (b"", "host_missing"),
    "two hosts": (HOST + b"Host: evil.example\r\n", "header_repeated"),
    "the host twice": (HOST + HOST, "header_repeated"),
    "two media types": (HOST + b"Content-Type: text/plain\r\n", "header_repeated"),
    "two authorizations": (HOST + b"Authorization: a\r\nAuthorization: b\r\n", "header_repeated"),
    "two origins": (HOST + b"Origin: http://localhost\r\n" * 2, "header_repeated"),
    "a foreign origin": (HOST + b"Origin: http://evil.example\r\n", "origin_not_allowed"),
    "another port": (HOST + b"Origin: http://localhost:3000\r\n", "origin_not_allowed"),
    "a file's origin": (HOST + b"Origin: null\r\n", "origin_not_allowed"),
    "another site": (HOST + b"Sec-Fetch-Site: cross-site\r\n", "origin_not_allowed"),
    "a form of another site": (
        HOST + b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n",
        "origin_not_allowed",
    ),
    "many headers": (HOST + b"X: x\r\n" * 120, "head_too_large"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_head_is_refused(service: RunningService, account: int, case: str) -> None:
    headers, code = REFUSED[case]
    reply = deposit(service, account, headers)
    if reply.headers["content-type"].startswith("text/plain"):  # by the server, before us
        assert reply.status in (400, 431)
    else:
        check_refused(reply, code)
    assert untouched(service, account)


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/accounts/", "/nowhere", "/batches"])
def test_a_foreign_host_gets_nothing_on_any_route(service: RunningService, path: str) -> None:
    head = b"GET %b HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    check_refused(send(service, head % path.encode()), "host_not_allowed")


ALLOWED = {
    "with a port": b"Host: localhost:8000\r\n",
    "in capitals": b"Host: LOCALHOST\r\n",
    "IPv6": b"Host: [::1]:8000\r\n",
    "a name of the setting": b"Host: pay.example\r\n",
    "an origin of the host": b"Host: localhost:8000\r\nOrigin: http://localhost:8000\r\n",
    "behind TLS": b"Host: pay.example\r\nOrigin: https://pay.example\r\n",
    "the same site": HOST + b"Sec-Fetch-Site: same-origin\r\n",
    "a person": HOST + b"Sec-Fetch-Site: none\r\n",
}


@pytest.mark.parametrize("case", ALLOWED)
def test_a_head_is_taken(service: RunningService, account: int, case: str) -> None:
    body = {"account_id": account, "amount": "1", "idempotency_key": f"head {case}"}
    content = json.dumps(body).encode()
    length = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(content)
    reply = send(service, b"POST /deposit HTTP/1.1\r\n", ALLOWED[case], JSON, length, content)
    assert reply.status == 200, reply


def test_what_needs_no_host(service: RunningService, account: int) -> None:
    probe = b"GET /health/live HTTP/1.1\r\nHost: 10.1.2.3:8000\r\nConnection: close\r\n\r\n"
    assert send(service, probe).status == 200
    link = b"GET /docs HTTP/1.1\r\n" + HOST + b"Connection: close\r\n"
    followed = b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n\r\n"
    assert send(service, link, followed).status == 200
    old = send(service, b"GET /accounts/%d HTTP/1.0\r\n\r\n" % account)
    assert old.status == 200


TRAILERS = [
    b"Idempotency-Key: trailer\r\n",
    b"Authorization: Bearer secret\r\n",
    b"Host: evil.example\r\n",
    b"Content-Type: text/plain\r\n",
]


@pytest.mark.parametrize("trailer", TRAILERS)
def test_a_trailer_counts_for_nothing(
    service: RunningService, account: int, trailer: bytes
) -> None:
    """A proxy that filters headers looks at the head only."""
    body = b'{"account_id": %d, "amount": "1"}' % account
    chunks = b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailer)
    framing = b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    reply = send(service, b"POST /deposit/ HTTP/1.1\r\n", HOST, JSON, framing, chunks)
    assert reply.json["code"] in (
        "idempotency_key_missing",
        "length_required",
        "header_repeated",
    )
    assert untouched(service, account)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize(
    "coding", [b"gzip, chunked", b"identity", b"chunked, chunked", b"xchunked"]
)
def test_a_coding_that_others_read_differently(
    service: RunningService, account: int, coding: bytes, version: bytes
) -> None:
    body = b"4\r\nevil\r\n0\r\n\r\n"
    framing = b"Transfer-Encoding: %b\r\nConnection: close\r\n\r\n" % coding
    head = b"POST /deposit/ HTTP/%b\r\n" % version
    with suppress(RemoteDisconnected):  # the server ends the connection
        assert send(service, head, HOST, JSON, framing, body).status in (400, 411, 501)
    assert untouched(service, account)


def test_two_lengths_are_refused(service: RunningService, account: int) -> None:
    for headers in (b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"):
        reply = deposit(service, account, HOST + headers)
        assert reply.status in (400, 411, 422)
    assert untouched(service, account)


CHANGING = {
    "to HTTP/2": (b"POST /deposit", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"),
    "to a WebSocket": (b"POST /deposit", b"Connection: upgrade\r\nUpgrade: websocket\r\n"),
    "to anything": (b"GET /docs", b"Connection: x\r\nConnection: UPGRADE\r\nUpgrade: x\r\n"),
    "with another fault": (b"GET /docs", b"Connection: upgrade\r\nUpgrade: x\r\nHost: x\r\n"),
    "of a probe": (b"GET /health/live", b"Connection: upgrade\r\nUpgrade: x\r\n"),
    "by CONNECT": (b"CONNECT /deposit", b""),
}
HIDDEN = b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("case", CHANGING)
def test_a_body_is_never_the_next_request(service: RunningService, case: str, framing: str) -> None:
    """The parser reads no body of a request that changes the protocol."""
    line, headers = CHANGING[case]
    length = b"Content-Length: %d\r\n\r\n" % len(HIDDEN)
    if framing == "chunks":
        length = b"Transfer-Encoding: chunked\r\n\r\n"
    with connect(service) as connection:
        connection.sendall(line + b" HTTP/1.1\r\n" + HOST + JSON + headers + length)
        with suppress(RemoteDisconnected):
            assert receive(connection).status in (400, 405, 426)
        with suppress(ConnectionError):
            connection.sendall(HIDDEN)
            assert connection.recv(65_536) == b""


def test_a_change_of_protocol_without_a_body_is_ignored(service: RunningService) -> None:
    headers = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 0\r\n"
    assert send(service, b"GET /health/live HTTP/1.1\r\n", HOST, headers, b"\r\n").status == 200


BLANKS = [b"k ", b"k\t", b" k", b"\tk", b"  k \t ", b"k"]


def test_blanks_around_a_key_are_not_part_of_it(service: RunningService) -> None:
    account = service.open()
    content = b'{"account_id": %d, "amount": "1"}' % account
    length = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(content)
    replies = []
    for key in BLANKS:
        header = b"Idempotency-Key:%b\r\n" % key
        head = b"POST /deposit HTTP/1.1\r\n"
        replies.append(send(service, head, HOST, JSON, header, length, content))
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body for reply in replies}) == 1
    assert service.account(account, "balance") == ("1.00",)


@pytest.mark.parametrize("key", [" k", "k ", " ", "\tk"])
def test_a_key_in_a_body_has_no_blanks_around_it(service: RunningService, key: str) -> None:
    account = service.open()
    body = {"account_id": account, "amount": "1", "idempotency_key": key}
    assert service.post("/deposit/", body).status_code == 422
    item = {"type": "DEPOSIT", **body}
    [result] = service.post("/batches/", {"movements": [item]}).json()["results"]
    assert result["status"] == 422
    assert service.account(account, "version") == (0,)


def test_a_quoted_key_is_another_key(service: RunningService) -> None:
    account = service.open()
    body = {"account_id": account, "amount": "1"}
    quoted = service.post("/deposit/", body, **{"Idempotency-Key": '"q"'})
    plain = service.post("/deposit/", {**body, "idempotency_key": "q"})
    again = service.post("/deposit/", {**body, "idempotency_key": '"q"'})
    assert quoted.content == again.content != plain.content
    assert service.account(account, "balance") == ("2.00",)


AS_JSON = {"Content-Type": "application/json"}
VALUES = 70_000
BOMBS = {
    "a list": b"[" + b"1," * VALUES + b"1]",
    "an object": b"{" + b'"a":1,' * 20_000 + b'"a":1}',
    "nested": b"[[1]," * 24_000 + b"1" + b"]" * 24_000,
    "metadata": b'{"account_id":1,"amount":"1","idempotency_key":"k","metadata":{"a":['
    + b"1," * 60_000 + b"1]}}",
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_a_body_of_too_many_values_is_refused(
    service: RunningService, account: int, case: str
) -> None:
    body = BOMBS[case][:131_000]
    for path in ("/deposit/", "/holds/", "/transactions/", "/accounts/"):
        answer = service.client.post(path, content=body, headers=AS_JSON)
        assert answer.json()["code"] == "invalid_json"
    assert untouched(service, account)


@pytest.mark.parametrize("items", [b"1," * 1_900_000, b"[1,1,1]," * 500_000], ids=len)
@pytest.mark.parametrize("path", ["/batches/", "/accounts/batches/"])
def test_a_batch_of_too_many_values_is_refused(
    service: RunningService, path: str, items: bytes
) -> None:
    name = b"movements" if path == "/batches/" else b"accounts"
    body = b'{"%b":[%b1]}' % (name, items)
    answer = service.client.post(path, content=body, headers=AS_JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_json")


def test_lines_of_nothing_are_answered_each(service: RunningService) -> None:
    lines = b"1\n" * 20_000
    answer = service.client.post(
        "/batches/", content=lines, headers={"Content-Type": "application/x-ndjson"}
    )
    results = [json.loads(line) for line in answer.text.splitlines()]
    assert [result["line"] for result in results] == list(range(1, 20_001))
    assert {result["status"] for result in results} == {422}


def test_the_largest_transaction_is_taken(service: RunningService) -> None:
    a, b = service.open(balance="1000"), service.open()
    legs = [
        {
            "account_id": account,
            "amount": amount,
            "currency": "USD",
            "available_at_least": "0.00",
            "balance_at_least": "0.00",
            "version": version,
        }
        for _ in range(250)
        for account, amount, version in [(a, "-1.00", 1), (b, "1.00", 0)]
    ]
    body = {
        "legs": legs,
        "idempotency_key": "largest",
        "metadata": {"m": [1] * 4_000},
        "description": "," * 200,
    }
    answer = service.post("/transactions/", body)
    assert answer.status_code == 200, answer.text
