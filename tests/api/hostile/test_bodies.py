"""Hostile amounts and bodies: never a 5xx, never a moved cent, never an echo."""
# ruff: noqa: RUF001 (what only looks like a digit is the point)

import codecs
import gzip
from urllib.parse import urlencode

import pytest

from ledgerservice.domain.amounts import MAX_AMOUNT_MINOR, MAX_BALANCE_MINOR
from tests.api.hostile.wire import (
    DEPOSIT,
    HUGE,
    JSON,
    MARK,
    MAX_BODY_BYTES,
    ask,
    check_refused,
    chunked,
    connect,
    encoded,
    head,
    receive,
    short,
)
from tests.processes import RunningService

Pair = tuple[int, int]


# Amounts


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


@pytest.mark.thorough
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
        DEPOSIT[:-1] + f', "{MARK} ": 1}}',
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
        (f'{{"owner": "Eve", "currency": "USD", "{MARK} ": 1}}', "invalid_request"),
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


def test_a_too_large_body_is_refused_before_it_is_sent(service: RunningService) -> None:
    expecting = JSON + b"Content-Length: 99999999\r\nExpect: 100-continue\r\n"
    with connect(service) as connection:
        connection.sendall(head("POST", "/deposit/", expecting))
        check_refused(receive(connection), "body_too_large")
