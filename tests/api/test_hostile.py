"""What an enemy, or a broken client, may send: never a 5xx, never a moved cent, never an echo."""
# ruff: noqa: RUF001 (what only looks like a digit is the point)

import base64
import codecs
import gzip
import json
import os
import re
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from ledgerservice.api.http.problems import CATALOGUE
from ledgerservice.domain.amounts import MAX_AMOUNT_MINOR, MAX_BALANCE_MINOR
from ledgerservice.postgres.connections import Database
from tests.api import routes
from tests.conftest import RunningService, serving, url_text

MARK = "zqxmark"
"""Planted in what is sent; no refusal may hold it."""

MAX_BODY_BYTES = 131_072
MEMORY_GROWTH_BYTES = 48 * 1024 * 1024
HANG_S = 30

JSON = b"Content-Type: application/json\r\n"


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
    return f"{method} {target} HTTP/1.1\r\nHost: ledger\r\n".encode("latin-1") + headers + b"\r\n"


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
    assert (problem["detail"], problem["retry"]) == (CATALOGUE[code].detail, CATALOGUE[code].retry)
    assert problem["type"].endswith(code)
    assert problem["title"]
    assert MARK not in reply.body.decode()
    assert MARK not in str(reply.headers)
    return problem


def check_unreadable(reply: Reply) -> None:
    """What is no HTTP is answered by the server in front of the service, in plain text."""
    assert 400 <= reply.status < 500, reply
    assert MARK not in reply.body.decode()


def state(service: RunningService, *accounts: int) -> list[Any]:
    """Everything that the service says of the accounts."""
    paths = [f"/accounts/{a}{part}" for a in accounts for part in ("", "/history")]
    return [service.get(path).json() for path in paths]


Pair = tuple[int, int]


@pytest.fixture
def pair(service: RunningService) -> Iterator[Pair]:
    """Two funded accounts. Fails the test if any money of theirs has moved."""
    accounts = service.open(balance="100.00"), service.open(balance="100.00")
    before = state(service, *accounts)
    yield accounts
    assert state(service, *accounts) == before
    assert service.get(f"/accounts/{accounts[0]}/keys/hostile").status_code == 404


# Amounts

HUGE = "9" * 60_000


def words(table: str) -> list[str]:
    return table.split()


# By the code of the refusal: the amounts as they stand in the JSON.
AMOUNTS = {
    "invalid_json": [
        *words("""
            NaN Infinity -Infinity +1 .5 5. 01 1_000 1,000 0x10 1e １２ ١٢ 1.2.3 '1' True None ,
            -01 -.5 1. --1 $1
        """),
        *("", '"1\n"', '"1\t"', '"1\0"', '"\\x31"', '"1'),
    ],
    "invalid_request": [
        *words("""
            0 -0 0.0 0.00 0e5 -1 -0.01 1e400 -1e400 1E5 5e1 50e-1 1E+2 1e-400 1e1000000 -1e1000000
            true false null [] {} [1] ["1"] {"amount":"1"} 92233720368547758.07e2
            "NaN" "nan" "sNaN" "Infinity" "inf" "-inf" "1e5" "1E5" "+1" "-1" "-0" "0" "0.00" ""
            ".5" "5." "." "01" "00.5" "1_000" "1,000" "0x10" "１２" "١٢" "1２" "1.٥" "²" "½" "−1"
            "1.2.3" "1e1000000" "1\\n" "\\n1" "1\\r" "1\\t" "1\\u0000" "1\\u00a0" "\\ud800"
            "1\\u2028" "1/2" "0b1" "1f" "1d" "null" "true" "[]" "1;" "1'" "$1" "\\u200b1"
            1000000000000000000 "1000000000000000000" 9999999999999999999 "9999999999999999999"
            18446744073709551617 -9223372036854775809
        """),
        *('" 1"', '"1 "', '" "', '"1 000"', f'"{MARK}"', f'["{MARK}"]', f'{{"{MARK}":1}}'),
        *(HUGE, f'"{HUGE}"', f"-{HUGE}", f"1e{HUGE}", f'"1e{HUGE}"', f"0.{'0' * 60_000}"),
    ],
    "amount_precision": [
        *words("""
            0.001 "0.001" 1.005 "50.000" 50.000 0.009999999999999999999 1.0000000000000000000000001
            123456789012345678.901
        """),
        *(f"1.{'0' * 60_000}", f'"0.{"0" * 60_000}1"'),
    ],
    "amount_limit": words("""
        10000000000000.01 "10000000000000.01" 10000000000001 12345678901234567.89
        "12345678901234567.89" 100000000000000000 999999999999999999 "999999999999999999.99"
    """),
}

MONEY_BODIES = {
    "/deposit/": '{"account_id": %d, "idempotency_key": "hostile", "amount": %s}',
    "/withdraw/": '{"account_id": %d, "idempotency_key": "hostile", "amount": %s}',
    "/transfer/": '{"from_account_id": %d, "to_account_id": %d, "idempotency_key": "hostile", '
    '"amount": %s}',
}


def short(value: object) -> str:
    return ascii(value)[:40]


@pytest.mark.parametrize(
    ("amount", "code"),
    [(amount, code) for code, amounts in AMOUNTS.items() for amount in amounts],
    ids=short,
)
def test_hostile_amounts_are_refused(
    service: RunningService, pair: Pair, amount: str, code: str
) -> None:
    for path, body in MONEY_BODIES.items():
        accounts = pair[: body.count("%d")]
        content = (body % (*accounts, amount)).encode()
        check_refused(ask(service, "POST", path, content), code)


@pytest.mark.parametrize(
    ("amount", "exactly"),
    [
        ("10000000000000", "10000000000000.00"),
        ('"10000000000000.00"', "10000000000000.00"),
        ("9999999999999.99", "9999999999999.99"),
        ("8765432109876.43", "8765432109876.43"),
        ("0.01", "0.01"),
        ("0.1", "0.10"),
        ("1.15", "1.15"),
        ('"0.29"', "0.29"),
    ],
)
def test_accepted_amounts_are_exact(service: RunningService, amount: str, exactly: str) -> None:
    account = service.open()
    reply = ask(
        service, "POST", "/deposit", (MONEY_BODIES["/deposit/"] % (account, amount)).encode()
    )
    assert reply.status == 200
    assert reply.json["amount"] == reply.json["new_balance"] == exactly
    assert service.get(f"/accounts/{account}").json()["balance"] == exactly


def test_a_balance_does_not_pass_its_limit(service: RunningService) -> None:
    """The one test that fills the external account of the rupee."""
    account = service.open(currency="INR")
    body = {"account_id": account, "amount": f"{MAX_AMOUNT_MINOR // 100}"}
    for number in range(MAX_BALANCE_MINOR // MAX_AMOUNT_MINOR):
        full = service.post("/deposit/", {**body, "idempotency_key": f"{number}"})
        assert full.status_code == 200
    assert full.json()["new_balance"] == f"{MAX_BALANCE_MINOR // 100}.00"
    over = {**body, "amount": "0.01", "idempotency_key": "hostile"}
    first, again = service.post("/deposit/", over), service.post("/deposit/", over)
    assert (first.status_code, first.json()["code"]) == (409, "balance_limit")
    assert first.json()["retry"] == "new_key"
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"


# Bodies. @ stands for the id of an account.

DEPOSIT = '{"account_id": @, "amount": "1", "idempotency_key": "hostile"}'

BODIES: dict[str, list[str | bytes]] = {
    "invalid_json": [
        "",
        " ",
        "not JSON",
        MARK,
        "[]",
        f"[{DEPOSIT}]",
        "1",
        '"text"',
        "null",
        "true",
        "NaN",
        codecs.BOM_UTF8 + DEPOSIT.encode(),
        DEPOSIT.encode("utf-16"),
        DEPOSIT.encode("utf-16-le"),
        DEPOSIT.encode("utf-32"),
        gzip.compress(DEPOSIT.encode(), mtime=0),
        DEPOSIT.encode().replace(b"hostile", b"\xff"),
        DEPOSIT.encode().replace(b"hostile", b"\xc0\x80"),  # an overlong NUL
        DEPOSIT.encode().replace(b"hostile", b"\xed\xa0\x80"),  # a surrogate
        DEPOSIT.encode().replace(b"hostile", b"\xf5\x80\x80\x80"),  # past U+10FFFF
        DEPOSIT.replace("hostile", "a\0b"),
        DEPOSIT.replace("hostile", "a\nb"),
        DEPOSIT + "x",
        DEPOSIT + DEPOSIT,
        DEPOSIT + "\0",
        "\x0b" + DEPOSIT,
        DEPOSIT + "\u00a0",
        DEPOSIT[:-1],
        DEPOSIT[:-1] + ",}",
        DEPOSIT.replace('"', "'"),
        f"/* {MARK} */ {DEPOSIT}",
        '{"account_id": @, "account_id": @, "amount": "1", "idempotency_key": "hostile"}',
        '{"account_id": @, "amount": "1", "amount": "1", "idempotency_key": "hostile"}',
        '{"account_id": @, "amount": "1", "\\u0061mount": "1", "idempotency_key": "hostile"}',
        DEPOSIT[:-1] + ', "type": {"x": 1, "x": 2}}',
        DEPOSIT[:-1] + ', "type": [[{"x": 1, "x": 1}]]}',
        "[" * 65_000,
        "[" * 32_000 + "]" * 32_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        '{"account_id": ' + "[" * 30_000 + "]" * 30_000 + ', "amount": "1"}',
    ],
    "invalid_request": [
        "{}",
        '{"amount": "1", "idempotency_key": "hostile"}',
        '{"account_id": @, "idempotency_key": "hostile"}',
        DEPOSIT[:-1] + f', "{MARK}": 1}}',
        DEPOSIT[:-1] + ', "": 1}',
        DEPOSIT[:-1] + ', "\\ud800": 1}',
        DEPOSIT[:-1] + ', "\\u0000": 1}',
        DEPOSIT[:-1] + ', "Amount": "1"}',
        DEPOSIT[:-1] + ', "ledger_id": 1}',
        DEPOSIT[:-1] + ', "__class__": 1}',
        DEPOSIT[:-1] + ', "to_account_id": @}',
        *(
            DEPOSIT[:-1] + f', "type": {kind}}}'
            for kind in (f'"{MARK}"', '"WITHDRAW"', '"deposit"', "1", "[]", "{}", '"\\ud800"', '""')
        ),
        *(
            DEPOSIT.replace("@", account)
            for account in (
                *(
                    "@.0",
                    "@e0",
                    '"@"',
                    "[@]",
                    "null",
                    "true",
                    "false",
                    "{}",
                    "1.5",
                    "-1.0",
                    "1e400",
                ),
                *("1" + "0" * 400, "9223372036854775808", "-9223372036854775808", HUGE, f"-{HUGE}"),
                f'"{MARK}"',
            )
        ),
        *(
            DEPOSIT.replace('"hostile"', key)
            for key in (
                *("1", "true", "[]", "{}", '""', '"\\u0000"', '"a\\nb"', '"a\\tb"', '"\\u007f"'),
                *('"é"', '"\\ud800"', '"\\udc00"', '"😀"', '"１"', f'"{MARK}\\u0080"'),
                f'"{"k" * 256}"',
                f'"{MARK * 5_000}"',
            )
        ),
    ],
    "account_not_found": [
        DEPOSIT.replace("@", account)
        for account in ("0", "-0", "-1", "-2", "999999999999", "9223372036854775807")
    ],
    "idempotency_key_missing": [
        '{"account_id": @, "amount": "1"}',
        '{"account_id": @, "amount": "1", "idempotency_key": null}',
    ],
}


def encoded(body: str | bytes, account: int) -> bytes:
    content = body if isinstance(body, bytes) else body.encode()
    return content.replace(b"@", str(account).encode())


@pytest.mark.parametrize(
    ("body", "code"),
    [(body, code) for code, bodies in BODIES.items() for body in bodies],
    ids=short,
)
def test_hostile_bodies_are_refused(
    service: RunningService, pair: Pair, body: str | bytes, code: str
) -> None:
    check_refused(ask(service, "POST", "/deposit/", encoded(body, pair[0])), code)


@pytest.mark.parametrize("stranger", ["0", "-1", "-2", "9223372036854775807"])
def test_external_and_unknown_accounts_are_not_there(
    service: RunningService, pair: Pair, stranger: str
) -> None:
    rest = '"amount": "1", "idempotency_key": "hostile"}'
    for path, body in (
        ("/withdraw/", f'{{"account_id": {stranger}, {rest}'),
        ("/transfer/", f'{{"from_account_id": {stranger}, "to_account_id": {pair[0]}, {rest}'),
        ("/transfer/", f'{{"from_account_id": {pair[0]}, "to_account_id": {stranger}, {rest}'),
    ):
        check_refused(ask(service, "POST", path, body.encode()), "account_not_found")


def test_external_accounts_are_not_listed(service: RunningService) -> None:
    listed = service.get("/accounts/?limit=1000").json()
    assert all(account["id"] > 0 for account in listed)
    assert service.get("/accounts/?owner=external").json() == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        *(
            (f'{{"owner": {owner}, "currency": "USD"}}', "invalid_request")
            for owner in (
                *("1", "null", "[]", '""', '"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"\\udfff x"'),
                *('"a\\nb"', '"\\u001b[31m"', '"\\u0085"', '"\\u007f"'),
                *(f'"{"x" * 256}"', f'"{MARK * 9_000}"'),
            )
        ),
        *(
            (f'{{"owner": "Eve", "currency": "USD", "reference": {reference}}}', "invalid_request")
            for reference in ("1", "[]", '""', '"\\u0000"', '"\\ud800"', '"\\r"', f'"{MARK * 99}"')
        ),
        *(
            (f'{{"owner": "Eve", "currency": {currency}}}', "invalid_request")
            for currency in (
                "1",
                "null",
                '""',
                '"usd"',
                '"USD "',
                '"USD\\n"',
                '"\\u0000"',
                '"ＵＳＤ"',
            )
        ),
        ('{"owner": "Eve", "currency": "US\'; DROP TABLE ledger.accounts; --"}', "invalid_request"),
        ('{"owner": "Eve", "currency": "XXX"}', "currency_unknown"),
        (f'{{"owner": "Eve", "currency": "{MARK.upper()}"}}', "currency_unknown"),
        ('{"owner": "Eve"}', "invalid_request"),
        ('{"currency": "USD"}', "invalid_request"),
        (f'{{"owner": "Eve", "currency": "USD", "{MARK}": 1}}', "invalid_request"),
        ('{"owner": "Eve", "currency": "USD", "balance": "1"}', "invalid_request"),
        ('{"owner": "Eve", "currency": "USD", "id": 1}', "invalid_request"),
        ('{"owner": "Eve", "owner": "Eve", "currency": "USD"}', "invalid_json"),
    ],
    ids=short,
)
def test_hostile_openings_are_refused(service: RunningService, body: str, code: str) -> None:
    check_refused(ask(service, "POST", "/accounts/", body.encode()), code)
    assert service.get("/accounts/?owner=Eve").json() == []


@pytest.mark.parametrize(
    "owner",
    [
        "Robert'); DROP TABLE ledger.accounts; --",
        "\\N",
        "\\.",
        "%s %(x)s :owner",
        "a&owner=b#c?d=e+f",
        "\u202eecilA\u2028",
        "\ufeff\uffff\U0010ffff",
        "x" * 255,
        "😀" * 255,
        " ",
    ],
    ids=short,
)
def test_strange_owners_come_back_as_sent(service: RunningService, owner: str) -> None:
    """Through the answer, the account, and a filtered list that keeps its filter page by page."""
    body = {"owner": owner, "currency": "USD"}
    opened = [service.post("/accounts/", body).json() for _ in range(3)]
    assert [account["owner"] for account in opened] == [owner] * 3
    found, target = [], "/accounts/?" + urlencode({"owner": owner, "limit": 1})
    for _ in range(3):
        page = service.get(target)
        found += page.json()
        target = page.headers.get("link", "")[1:].partition(">")[0]
    assert target == ""
    assert found == opened


@pytest.mark.parametrize(
    "content_type",
    [b"", *(b"Content-Type: " + t + b"\r\n" for t in (
        b"", b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data",
        b"application/problem+json", b"application/json5", b"text/json", b"*/*",
        b"application/json, text/plain", b"text/plain; application/json", MARK.encode(), b"\xff",
    ))],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/deposit/", "/withdraw", "/transfer", "/accounts/"])
def test_other_content_types_are_refused(
    service: RunningService, pair: Pair, path: str, content_type: bytes
) -> None:
    body = encoded(DEPOSIT, pair[0])
    check_refused(ask(service, "POST", path, body, content_type), "unsupported_media_type")


def test_a_compressed_body_is_refused(service: RunningService, pair: Pair) -> None:
    body = gzip.compress(encoded(DEPOSIT, pair[0]))
    reply = ask(service, "POST", "/deposit/", body, JSON + b"Content-Encoding: gzip\r\n")
    check_refused(reply, "unsupported_media_type" if reply.status == 415 else "invalid_json")


def test_the_largest_body_is_read_and_a_larger_one_is_not(service: RunningService) -> None:
    account = service.open()
    body = encoded(DEPOSIT, account)
    largest = body + b" " * (MAX_BODY_BYTES - len(body))
    check_refused(ask(service, "POST", "/deposit/", largest + b" "), "body_too_large")
    check_refused(chunked(service, largest + b" "), "body_too_large")
    assert service.get(f"/accounts/{account}").json()["version"] == 0
    assert ask(service, "POST", "/deposit/", largest).status == 200
    assert chunked(service, largest).headers["idempotency-replayed"] == "true"


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


def test_a_too_large_body_is_refused_before_it_is_sent(service: RunningService) -> None:
    expecting = JSON + b"Content-Length: 99999999\r\nExpect: 100-continue\r\n"
    with connect(service) as connection:
        connection.sendall(head("POST", "/deposit/", expecting))
        check_refused(receive(connection), "body_too_large")


# Keys


@pytest.mark.parametrize(
    "key",
    [
        "k", "0", " ", "a b", "~", "!", "\\", "\\N", "\\.", "\\\\", "\\t", "\\x41", "'", '"', "''",
        "%", "%%", "%s", "%00", "%2F", "%252F", "a%2fb", "/", "//", "a/b", "a/", "/a", "a/keys/b",
        "keys/", "../../1", ".", "..", "?", "a?b=c", "#", "a#b", "&", "+", ";", ":", "@", "{key}",
        "$1", "null", "NULL", "<script>", "k" * 255, "%" * 255, "/" * 255,
        "'; DROP TABLE ledger.transactions; --", "".join(map(chr, range(0x20, 0x7F))),
    ],
    ids=short,
)  # fmt: skip
def test_every_legal_key_is_kept_as_sent(service: RunningService, key: str) -> None:
    account = service.open()
    body = {"account_id": account, "amount": "1.00", "idempotency_key": key}
    first, again = service.post("/deposit/", body), service.post("/deposit/", body)
    assert first.status_code == again.status_code == 200
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    [entry] = service.get(f"/accounts/{account}/history").json()
    assert entry["idempotency_key"] == key
    for slash in ("", "/"):
        target = f"/accounts/{account}/keys/{quote(key, safe='')}{slash}"
        record = ask(service, "GET", target)
        assert record.status == 200
        assert record.json["idempotency_key"] == key
        assert record.json["transaction_id"] == first.json()["transaction_id"]
    if key.strip() == key:
        header = JSON + b"Idempotency-Key: " + key.encode() + b"\r\n"
        bare = f'{{"account_id": {account}, "amount": 1}}'.encode()
        assert ask(service, "POST", "/deposit/", bare, header).body == first.content


def test_keys_that_look_alike_are_different(service: RunningService) -> None:
    account = service.open()
    alike = ["a", "A", " a", "a ", "a/", "/a", "%61", "a%00", "\\a", "a\\", "'a'", "a%", "a_"]
    for number, key in enumerate(alike, 1):
        body = {"account_id": account, "amount": "1", "idempotency_key": key}
        answer = service.post("/deposit/", body).json()
        assert answer["entries"][0]["version"] == number
    for number, key in enumerate(alike, 1):
        record = ask(service, "GET", f"/accounts/{account}/keys/{quote(key, safe='')}").json
        assert (record["idempotency_key"], record["entries"][0]["version"]) == (key, number)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (b"Idempotency-Key: other\r\n", "idempotency_key_mismatch"),
        (b"Idempotency-Key: HOSTILE\r\n", "idempotency_key_mismatch"),
        (b"Idempotency-Key: hostile\r\nIdempotency-Key: other\r\n", "idempotency_key_mismatch"),
        (b"Idempotency-Key:\r\n", "idempotency_key_mismatch"),
        (b"Idempotency-Key: " + MARK.encode() + b"\r\n", "idempotency_key_mismatch"),
    ],
)
def test_keys_that_differ_are_refused(
    service: RunningService, pair: Pair, headers: bytes, code: str
) -> None:
    body = encoded(DEPOSIT, pair[0])
    check_refused(ask(service, "POST", "/deposit/", body, JSON + headers), code)


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ([b""], "idempotency_key_invalid"),
        ([b"k" * 256], "idempotency_key_invalid"),
        ([b"a\tb"], "idempotency_key_invalid"),
        ([b"\xe9"], "idempotency_key_invalid"),
        (["é".encode()], "idempotency_key_invalid"),
        ([b"\xb7" + b"0" * 32], "idempotency_key_invalid"),
        ([MARK.encode() + b"\x80"], "idempotency_key_invalid"),
        ([b"hostile", b"other"], "idempotency_key_mismatch"),
    ],
    ids=short,
)
def test_hostile_header_keys_are_refused(
    service: RunningService, pair: Pair, keys: list[bytes], code: str
) -> None:
    headers = JSON + b"".join(b"Idempotency-Key: " + key + b"\r\n" for key in keys)
    body = f'{{"account_id": {pair[0]}, "amount": "1"}}'.encode()
    check_refused(ask(service, "POST", "/deposit/", body, headers), code)
    opening = b'{"owner": "Eve", "currency": "USD"}'
    check_refused(ask(service, "POST", "/accounts/", opening, headers), code)
    assert service.get("/accounts/?owner=Eve").json() == []


def test_the_same_key_in_header_and_body_is_one_key(service: RunningService) -> None:
    account = service.open()
    header = b"Idempotency-Key: hostile\r\n"
    first = ask(service, "POST", "/deposit/", encoded(DEPOSIT, account), JSON + header * 2)
    again = ask(service, "POST", "/deposit/", encoded(DEPOSIT, account))
    assert (first.status, again.body) == (200, first.body)


# Paths and queries

HOSTILE_IDS = [
    "0", "-0", "+1", "1.5", "1.0", "1e3", "0x1", "01", "1_0", "%201", "1%20", "1%0A", "1%00", "%00",
    "%D9%A1", "%EF%BC%91", "%C2%B9", "%FF", "%ED%A0%80", "1;", "1'", "1%27%20OR%201=1--", "null",
    "true", "NaN", "..", "%2E%2E", "%2F", "1%2C2", "@", "*", MARK, "9" * 18, "9" * 19,
    "1" + "0" * 30, "-9223372036854775808", "9223372036854775807", "9223372036854775808",
    "9" * 5_000, "-999",
]  # fmt: skip


@pytest.mark.parametrize("number", HOSTILE_IDS, ids=short)
def test_hostile_ids_in_paths_name_nothing(service: RunningService, number: str) -> None:
    slashed = {"%2F"}
    for path, code in (
        (f"/accounts/{number}", "account_not_found"),
        (f"/accounts/{number}/", "account_not_found"),
        (f"/accounts/{number}/history", "account_not_found"),
        (f"/transactions/{number}", "transaction_not_found"),
    ):
        check_refused(ask(service, "GET", path), "not_found" if number in slashed else code)
    by_key = ask(service, "GET", f"/accounts/{number}/keys/k")
    assert check_refused(by_key, by_key.json["code"])["status"] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/", "//", f"/{MARK}", "//accounts/", "/accounts//", "/accounts//history", "/accounts/1//",
        "/accounts/1//history", f"/accounts/1/{MARK}", "/accounts/1/history/2",
        "/transactions//", "/ledgers/default//", "/deposit//", "//deposit", "/Deposit/",
        "/ACCOUNTS/",
        "/accounts/1/keys", "/accounts/../accounts/", "/./accounts/", "/%2e%2e/accounts/",
        "/accounts%00", "/health", "/health/", "/health/live//", "/%00", "/%FF",
        "/.env", "/ledgers/default%2Faccounts",
        "/accounts/1/keys/a%0Ab", "*", f"/accounts/1%2F{MARK}", "/" + "a/" * 5_000,
        f"/%0d%0aLocation:%20{MARK}", f"/%5c{MARK}", f"//{MARK}.example/%2f..",
    ],
    ids=short,
)  # fmt: skip
def test_unknown_routes_are_not_found(service: RunningService, path: str) -> None:
    check_refused(ask(service, "GET", path), "not_found")
    if path not in ("/transactions//", "/ledgers/default//"):
        check_refused(ask(service, "POST", path, b"{}"), "not_found")


IN_PATHS = {"code": "USD", "key": "k", "name": "default"}
ROUTES = {
    prefix + path.format_map(defaultdict(lambda: "1", IN_PATHS)): methods
    for prefix in ("", "/ledgers/default")
    for path, methods in routes.ROUTES.items()
}
"""Every route there is, with something in its path, and its methods."""


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("path", ROUTES)
def test_other_methods_are_refused(service: RunningService, path: str, slash: str) -> None:
    methods = {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"}
    for method in sorted(methods - ROUTES[path]):
        reply = ask(service, method, path + slash)
        check_refused(reply, "method_not_allowed")
        allowed = {name.strip() for name in reply.headers["allow"].split(",")}
        assert allowed == ROUTES[path]


@pytest.mark.parametrize("path", [path for path in ROUTES if "HEAD" in ROUTES[path]])
def test_head_says_what_get_would_say(service: RunningService, path: str) -> None:
    for slash in ("", "/"):
        got, head_only = service.get(path + slash), service.client.head(path + slash)
        assert (head_only.status_code, head_only.content) == (got.status_code, b"")
        for name in ("content-type", "content-length"):
            assert head_only.headers[name] == got.headers[name]


@pytest.mark.parametrize("path", ROUTES)
def test_no_route_redirects(service: RunningService, path: str) -> None:
    for method in sorted(ROUTES[path] - {"HEAD"}):
        for slash in ("", "/", "/?limit=1"):
            body = b"{}" if method == "POST" else None
            reply = ask(service, method, path + slash, body)
            assert reply.status in (200, 404, 422)
            assert reply.headers["location"] is None


@pytest.mark.parametrize("path", ["/accounts/", "/accounts/{account}/history"])
@pytest.mark.parametrize(
    "query",
    [
        *(
            f"limit={limit}"
            for limit in (
                *("0", "-1", "-0", "1001", "1000000000", "9" * 30, "9" * 5_000, "x", "", "1.5"),
                *("1e2", "NaN", "0x1", "%D9%A1", "%00", "1%00", "1;2", "null", "true", MARK),
            )
        ),
        "limit=1&limit=0",
    ],
    ids=short,
)
def test_hostile_limits_are_refused(service: RunningService, path: str, query: str) -> None:
    target = path.format(account=service.open()) + "?" + query
    check_refused(ask(service, "GET", target), "invalid_request")


def forged(*place_and_list: Any) -> str:
    text = json.dumps(place_and_list, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "x", "!", "a" * 5, MARK, "%00", "%FF", "%C3%A9", "....", "null", "W10", "e30", "MQ", "-1",
        forged(), forged("accounts", None, None), forged(1), forged(1, "accounts"),
        forged(1, "accounts", None), forged(1, "accounts", "Eve", None),
        forged(1, "accounts", None, None, None), forged(1, "history", 1), forged(1, "history", "1"),
        *(forged(place, "accounts", None, None)
          for place in (-1, 2**63, 10**300, 1.0, 1.5, "1", None, True, [1], {}, float("nan"))),
        base64.urlsafe_b64encode(b"[" * 700).decode(),
        base64.urlsafe_b64encode(b"\xff\xfe[\x001\x00]\x00").decode().rstrip("="),
    ],
    ids=short,
)  # fmt: skip
def test_hostile_cursors_are_refused(service: RunningService, cursor: str) -> None:
    account = service.open()
    for path in ("/accounts/", f"/accounts/{account}/history"):
        check_refused(ask(service, "GET", f"{path}?cursor={cursor}"), "invalid_cursor")


def test_a_cursor_that_is_too_long_is_refused(service: RunningService) -> None:
    for cursor in (MARK * 800, forged(1, "accounts", "x" * 9_000, None)):
        check_refused(ask(service, "GET", f"/accounts/?cursor={cursor}"), "invalid_request")


def cursor_of(service: RunningService, target: str) -> str:
    found = re.search(r"cursor=([^&>]+)", service.get(target).headers["link"])
    assert found is not None
    return found[1]


def test_a_cursor_is_of_its_list_and_filter_only(service: RunningService) -> None:
    first, second = service.open("Heidi", balance="2"), service.open("Heidi", balance="2")
    for account in (first, second):
        body = {"account_id": account, "amount": "1", "idempotency_key": "k"}
        assert service.post("/withdraw/", body).status_code == 200
    of_heidi = cursor_of(service, "/accounts/?owner=Heidi&limit=1")
    of_all = cursor_of(service, "/accounts/?limit=1")
    of_first = cursor_of(service, f"/accounts/{first}/history?limit=1")
    for target in (
        f"/accounts/?owner=Ivan&cursor={of_heidi}",
        f"/accounts/?owner=Heidi&currency=USD&cursor={of_heidi}",
        f"/accounts/?owner=Heidi&cursor={of_all}",
        f"/accounts/?cursor={of_first}",
        f"/accounts/{first}/history?cursor={of_heidi}",
        f"/accounts/{second}/history?cursor={of_first}",
        f"/accounts/?cursor={of_all[:-1]}",
        f"/accounts/?cursor={of_all}!!!!",
        f"/accounts/?cursor=%20{of_all}",
        f"/accounts/?cursor={of_all}%00",
        f"/accounts/?cursor={of_all[:4]}.{of_all[4:]}",
    ):
        check_refused(ask(service, "GET", target), "invalid_cursor")
    for filtered in ("", "owner=Heidi&"):
        [found] = service.get(f"/accounts/?{filtered}cursor={of_heidi}").json()
        assert (found["id"], found["owner"]) == (second, "Heidi")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("owner=%00", None),
        (f"owner={MARK}%00", None),
        ("owner=" + "x" * 256, None),
        ("currency=%00", None),
        ("currency=" + "X" * 17, None),
        ("owner=%27%20OR%20%271%27=%271", []),
        ("owner=%27;DROP%20TABLE%20ledger.accounts;--", []),
        ("owner=%25", []),
        ("owner=_", []),
        ("owner=%FF%ED%A0%80", []),
        ("owner=%5C", []),
        ("owner=", []),
        ("currency=usd", []),
        ("currency=%27", []),
    ],
    ids=short,
)
def test_hostile_filters_find_nothing(
    service: RunningService, query: str, found: list[Any] | None
) -> None:
    service.open()
    reply = ask(service, "GET", f"/accounts/?{query}")
    if found is None:
        check_refused(reply, "invalid_request")
    else:
        assert (reply.status, reply.json) == (200, found)


# Raw sockets


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
    "no such version": b"GET /health/live HTTP/9.9\r\nHost: ledger\r\n\r\n",
    "no such method": b"STEAL /accounts/ HTTP/1.1\r\nHost: ledger\r\n\r\n",
    "raw bytes in path": b"GET /accounts/\xff\xfe HTTP/1.1\r\nHost: ledger\r\n\r\n",
    "NUL in path": b"GET /accounts/\0 HTTP/1.1\r\nHost: ledger\r\n\r\n",
    "NUL in header": b"GET /accounts/ HTTP/1.1\r\nHost: ledger\r\nX: a\0b\r\n\r\n",
    "space in name": b"GET /accounts/ HTTP/1.1\r\nHost : ledger\r\nX : 1\r\n\r\n",
    "long path": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: ledger\r\n\r\n",
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
        (b"GET /health/live HTTP/1.1\r\nHost: ledger\r\nX: ", b"x" * 1_000_000),
        (b"GET /health/live HTTP/1.1\r\nHost: ledger\r\n", b"X: x\r\n" * 100_000),
        (b"GET /health/live HTTP/1.1\r\nHost: ledger\r\n", b"x" * 1_000_000),
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


described = schemathesis.openapi.from_dict(routes.API.openapi())


def test_the_description_is_served(service: RunningService) -> None:
    assert service.get("/openapi.json").json() == described.raw_schema


def test_every_described_refusal_is_a_problem() -> None:
    for path, methods in described.raw_schema["paths"].items():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                expected = "application/json" if status < "400" else "application/problem+json"
                others = {"text/csv", "text/html"} if path.endswith("/statement") else set()
                assert {expected} == set(response["content"]) - others, (path, status)
    assert "503" in described.raw_schema["paths"]["/health/ready"]["get"]["responses"]


def test_answers_to_the_usual_are_as_described(service: RunningService) -> None:
    """The generated requests seldom find an account; these do, and see most answers there are."""
    alice, bob, rupees = service.open(balance="5"), service.open(), service.open(currency="INR")
    opening = {"owner": "Grace", "currency": "USD", "reference": "Grace's"}
    deposit = {"account_id": alice, "amount": "1.00", "idempotency_key": "d"}
    withdrawal = {"account_id": alice, "amount": 9, "idempotency_key": "w"}
    transfer = {"from_account_id": alice, "to_account_id": bob, "amount": 1}
    requests = [
        (201, "POST", "/accounts/", {}, opening),
        (201, "POST", "/accounts/", {}, opening),
        (409, "POST", "/accounts/", {}, {**opening, "owner": "Mallory"}),
        (422, "POST", "/accounts/", {}, {"owner": "Grace", "currency": "XXX"}),
        (200, "POST", "/deposit/", {}, deposit),
        (200, "POST", "/deposit/", {}, deposit),
        (422, "POST", "/deposit/", {}, {**deposit, "amount": "2.00"}),
        (422, "POST", "/deposit/", {}, {**deposit, "amount": "0"}),
        (404, "POST", "/deposit/", {}, {**deposit, "account_id": 10**15}),
        (400, "POST", "/withdraw/", {}, withdrawal),
        (400, "POST", "/withdraw/", {}, withdrawal),
        (200, "POST", "/withdraw/", {}, {**withdrawal, "amount": 1, "idempotency_key": "x"}),
        (422, "POST", "/withdraw/", {}, {**withdrawal, "idempotency_key": None}),
        (200, "POST", "/transfer/", {}, {**transfer, "idempotency_key": "t"}),
        (400, "POST", "/transfer/", {}, {**transfer, "amount": 99, "idempotency_key": "u"}),
        (422, "POST", "/transfer/", {}, {**transfer, "to_account_id": alice}),
        (422, "POST", "/transfer/", {}, {**transfer, "to_account_id": rupees}),
        (200, "GET", "/accounts/", {}, None),
        (200, "GET", "/accounts/{account_id}", {"account_id": alice}, None),
        (404, "GET", "/accounts/{account_id}", {"account_id": 10**15}, None),
        (200, "GET", "/accounts/{account_id}/history", {"account_id": alice}, None),
        (404, "GET", "/accounts/{account_id}/history", {"account_id": 10**15}, None),
        (200, "GET", "/accounts/{account_id}/keys/{key}", {"account_id": alice, "key": "d"}, None),
        (200, "GET", "/accounts/{account_id}/keys/{key}", {"account_id": alice, "key": "w"}, None),
        (404, "GET", "/accounts/{account_id}/keys/{key}", {"account_id": alice, "key": "?"}, None),
        (201, "POST", "/currencies/", {}, {"code": "PTS", "exponent": 0, "name": "Points"}),
        (409, "POST", "/currencies/", {}, {"code": "USD", "exponent": 0, "name": "Dollars"}),
        (422, "POST", "/currencies/", {}, {"code": "pts", "exponent": 0, "name": "Points"}),
        (200, "GET", "/currencies/", {}, None),
        (200, "GET", "/currencies/{code}", {"code": "USD"}, None),
        (404, "GET", "/currencies/{code}", {"code": "NONE"}, None),
        (200, "GET", "/transactions/{transaction_id}", {"transaction_id": 1}, None),
        (404, "GET", "/transactions/{transaction_id}", {"transaction_id": 10**15}, None),
        (200, "GET", "/health/live", {}, None),
        (200, "GET", "/health/ready", {}, None),
    ]
    for status, method, path, in_path, body in requests:
        content = {} if body is None else {"body": body, "media_type": "application/json"}
        case = described[path][method].Case(path_parameters=in_path, **content)
        assert case.call_and_validate(base_url=service.base).status_code == status


def test_every_answer_of_a_list_is_declared(service: RunningService) -> None:
    """What the models do not name is not sent, and what they name is."""
    account = service.open(balance="1")
    models = described.raw_schema["components"]["schemas"]
    for path, model in (
        (f"/accounts/{account}", "Account"),
        (f"/accounts/{account}/history", "HistoryEntry"),
        (f"/accounts/{account}/keys/funding", "Transaction"),
    ):
        body = service.get(path).json()
        sent = body[0] if isinstance(body, list) else body
        assert set(models[model]["required"]) <= sent.keys() <= models[model]["properties"].keys()


@described.parametrize()
@settings(
    max_examples=60,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_described(case: schemathesis.Case, service: RunningService) -> None:
    # That two keys differ, or a cursor is of another list, no schema can say.
    case.call_and_validate(
        base_url=service.base,
        excluded_checks=[schemathesis.checks.CHECKS.get_one("positive_data_acceptance")],
    )


def test_requests_that_follow_from_each_other_are_answered_as_described(
    service: RunningService,
) -> None:
    """Chains along the links of the description, and those that its names suggest."""
    linked = schemathesis.openapi.from_url(f"{service.base}/openapi.json")
    excluded = [schemathesis.checks.CHECKS.get_one("positive_data_acceptance")]

    class Chain(linked.as_state_machine()):
        def validate_response(self, response, case, *_: object, **__: object) -> None:
            followed.add(case.operation.label)
            case.validate_response(response, excluded_checks=excluded)

    followed: set[str] = set()
    Chain.run(
        settings=settings(
            max_examples=80,
            stateful_step_count=12,
            deadline=None,
            derandomize="CI" in os.environ,
            suppress_health_check=list(HealthCheck),
        )
    )
    assert {"GET /accounts/{account_id}", "GET /accounts/{account_id}/history"} <= followed
