"""Hostile keys, paths and queries: never a 5xx, never a moved cent, never an echo."""

import base64
import json
import re
from collections import defaultdict
from typing import Any
from urllib.parse import quote

import pytest

from tests.api import routes
from tests.api.hostile.wire import DEPOSIT, JSON, MARK, ask, check_refused, encoded, short
from tests.processes import RunningService

Pair = tuple[int, int]

# Keys


@pytest.mark.parametrize(
    "key",
    [
        "k", "0", "a b", "~", "!", "\\", "\\N", "\\.", "\\\\", "\\t", "\\x41", "'", '"', "''",
        "%", "%%", "%s", "%00", "%2F", "%252F", "a%2fb", "/", "//", "a/b", "a/", "/a", "a/keys/b",
        "keys/", "../../1", ".", "..", "?", "a?b=c", "#", "a#b", "&", "+", ";", ":", "@", "{key}",
        "$1", "null", "NULL", "<script>", "k" * 255, "%" * 255, "/" * 255,
        "'; DROP TABLE ledger.transactions; --", "".join(map(chr, range(0x21, 0x7F))),
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
    alike = ["a", "A", "a b", "a  b", "a/", "/a", "%61", "a%00", "\\a", "a\\", "'a'", "a%", "a_"]
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
        no_route = number in slashed or path.endswith("%0A") or "%00" in path
        check_refused(ask(service, "GET", path), "not_found" if no_route else code)
    by_key = ask(service, "GET", f"/accounts/{number}/keys/k")
    assert check_refused(by_key, by_key.json["code"])["status"] == 404


@pytest.mark.parametrize(
    "path",
    [
        "//", f"/{MARK}", "//accounts/", "/accounts//", "/accounts//history", "/accounts/1//",
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


# Each reading of the audit log adds to it, each request to the metrics, and time to the status.
CHANGES = ("/audit", "/metrics", "/status")
SAME_TWICE = [path for path in ROUTES if "HEAD" in ROUTES[path] and not path.endswith(CHANGES)]


@pytest.mark.parametrize("path", SAME_TWICE)
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
            if path.endswith("/verification"):  # where nothing verifies yet
                assert reply.status in (200, 202, 409, 422)
            else:
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


PLACES: list[Any] = [-1, 2**63, 10**300, 1.0, 1.5, "1", None, True, [1], {}, float("nan")]


@pytest.mark.parametrize(
    "cursor",
    [
        "x", "!", "a" * 5, MARK, "%00", "%FF", "%C3%A9", "....", "null", "W10", "e30", "MQ", "-1",
        forged(), forged("accounts", None, None), forged(1), forged(1, "accounts"),
        forged(1, "accounts", None), forged(1, "accounts", "Eve", None),
        forged(1, "accounts", None, None, None), forged(1, "history", 1), forged(1, "history", "1"),
        *(forged(place, "accounts", None, None) for place in PLACES),
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


@pytest.mark.parametrize("path", ["/transactions", "/transactions/", "/accounts/", "/health/live"])
def test_a_path_that_ends_with_a_line_feed_is_no_route(service: RunningService, path: str) -> None:
    check_refused(ask(service, "GET", f"{path}%0A"), "not_found")
    check_refused(ask(service, "GET", f"/ledgers/default{path}%0A"), "not_found")
