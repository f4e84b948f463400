"""The description of the interface says all that is answered: every code, each route's statuses.

A generated request seldom meets a decline, and asks for what is described only.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any, NamedTuple

import pytest

from ledgerservice.api.http.catalogue import CATALOGUE
from tests.api.routes import DESCRIBED
from tests.databases import url_text
from tests.processes import RunningService, serving

LARGE = b" " * 200_000
NOWHERE = {"code": "NONE", "name": "nope", "key": "none"} | dict.fromkeys(
    ("account_id", "transaction_id", "hold_id", "schedule_id", "webhook_id", "approval_id"), 10**15
)


@pytest.fixture(scope="module")
def service(new_database) -> Iterator[RunningService]:
    """A service that waits a second for a body, and takes small ones of many movements too."""
    limits = {"LEDGER_BODY_TIMEOUT_S": "1", "LEDGER_MAX_BATCH_BYTES": "131072"}
    with serving(DATABASE_URL=url_text(new_database()), **limits) as running:
        yield running


def test_every_code_of_the_catalogue_is_described(service) -> None:
    """With its status, whether the request may be sent again, and what it says."""
    schemas = service.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["ProblemCode"]["enum"] == [*CATALOGUE]
    lines = schemas["ProblemCode"]["description"].splitlines()
    told = {tuple(line.strip("| ").split(" | ")) for line in lines if line.count(" | ") == 3}
    expected = {(code, str(p.status.value), p.retry, p.detail) for code, p in CATALOGUE.items()}
    assert told == expected | {("code", "status", "retry", "detail")}


class Sent(NamedTuple):
    """A request that can be refused by itself, and the statuses that are meant."""

    status: set[int]
    content: bytes = b"{}"
    headers: dict[str, str] | None = None
    query: str = ""


JSON = {"Content-Type": "application/json"}
AMISS = {
    "too large": Sent({413}, LARGE),
    "no JSON": Sent({422}, b"{"),
    "no media type": Sent({415}, headers={"Content-Type": "text/plain"}),
    "no fields": Sent({404, 422}),
    "two keys": Sent({404, 422}, b'{"idempotency_key":"a"}', JSON | {"Idempotency-Key": "b"}),
    "a query": Sent({404, 422}, query="?nope=1"),
}
OPERATIONS = [(path, method) for path, methods in DESCRIBED.items() for method in methods]
WITHOUT_BODY = {"/verification"}
WRITES = [
    (path, method)
    for path, method in OPERATIONS
    if method in ("post", "patch") and path not in WITHOUT_BODY
]


def declared(path: str, method: str) -> set[int]:
    return {int(status) for status in DESCRIBED[path][method]["responses"]}


@pytest.mark.parametrize(("path", "method"), WRITES)
def test_what_is_wrong_with_a_request_is_declared(service, path, method) -> None:
    target = path.format(**NOWHERE)
    for name, sent in AMISS.items():
        answer = service.client.request(
            method, target + sent.query, content=sent.content, headers=sent.headers or JSON
        )
        assert answer.status_code in sent.status, name
        assert answer.status_code in declared(path, method), name


def half_sent(service: RunningService, method: str, target: str) -> int:
    host, _, port = service.base.removeprefix("http://").partition(":")
    connection = HTTPConnection(host, int(port), timeout=30)
    connection.request(method.upper(), target, b"{", JSON | {"Content-Length": "9"})
    return connection.getresponse().status


def test_that_a_body_did_not_arrive_is_declared(service) -> None:
    targets = [path.format(**NOWHERE) for path, _ in WRITES]
    methods = [method for _, method in WRITES]
    with ThreadPoolExecutor(len(WRITES)) as pool:
        statuses = pool.map(lambda *asked: half_sent(service, *asked), methods, targets)
    for (path, method), status in zip(WRITES, statuses, strict=True):
        assert status == 408
        assert status in declared(path, method), path


@pytest.mark.parametrize("path", [path for path in DESCRIBED if "get" in DESCRIBED[path]])
def test_what_is_not_found_or_misspelt_is_declared(service, path) -> None:
    target = path.format(**NOWHERE)
    for query in ("", "?nope=1", "?limit=x", "?cursor=x", "?at=x", "?key=", "?as_of=x"):
        answer = service.get(target + query)
        if not path.startswith(("/health", "/metrics", "/verification")):
            assert answer.status_code != 200 or query in ("", "?nope=1")
        assert answer.status_code in declared(path, "get"), query


def test_that_the_database_is_away_is_declared() -> None:
    """Whatever asks it: all but whether the process answers."""
    for path, method in OPERATIONS:
        assert (503 in declared(path, method)) is (path != "/health/live"), path


# Declines.


class Made(NamedTuple):
    """What declines are asked about: an account with 5.00, an empty one, one that is frozen, a hold
    of 1.00, a deposit that was passed on, and a transfer that was cancelled.
    """

    own: int
    empty: int
    frozen: int
    hold: int
    passed_on: int
    cancelled: int


@pytest.fixture(scope="module")
def made(service) -> Made:
    own, empty, frozen = service.open(balance="5"), service.open(), service.open()
    other = service.open()
    between = {"from_account_id": own, "to_account_id": empty, "amount": "1"}
    hold = service.send("/holds", account_id=own, amount="1").json()["hold_id"]
    passed_on = service.send("/deposit", account_id=other, amount="1").json()["transaction_id"]
    service.send("/withdraw", account_id=other, amount="1")
    to_come = service.send("/transfer", execute_at="2099-01-01T00:00:00Z", **between).json()
    assert service.send(f"/schedules/{to_come['schedule_id']}/cancel").status_code == 200
    by = {"actor": "me", "reason": "so"}
    assert service.send(f"/accounts/{frozen}", "PATCH", frozen="both", **by).status_code == 200
    opened = {"owner": "o", "currency": "USD", "reference": "taken"}
    assert service.post("/accounts", opened).status_code == 201
    return Made(own, empty, frozen, hold, passed_on, to_come["schedule_id"])


Case = tuple[int, str, dict[str, Any], dict[str, Any]]


def declines(m: Made) -> list[Case]:
    """Status, path, what is in the path, and what is sent."""
    hold, to = {"hold_id": m.hold}, {"to_account_id": m.empty}
    legs = [{"account_id": m.empty, "amount": "-9"}, {"account_id": m.own, "amount": "9"}]
    move = {"type": "TRANSFER", "from_account_id": m.empty, **to, "to_account_id": m.own}
    item = move | {"amount": "9", "idempotency_key": "i"}
    closing = {"closed": True, "actor": "me", "reason": "so"}
    return [
        (409, "/deposit", {}, {"account_id": m.frozen, "amount": "1"}),
        (409, "/withdraw", {}, {"account_id": m.frozen, "amount": "1"}),
        (400, "/withdraw", {}, {"account_id": m.own, "amount": "9"}),
        (409, "/transfer", {}, {"from_account_id": m.frozen, **to, "amount": "1"}),
        (400, "/transfer", {}, {"from_account_id": m.own, **to, "amount": "9"}),
        (400, "/transactions", {}, {"legs": legs}),
        (409, "/transactions", {}, {"legs": [legs[0] | {"version": 9}, legs[1]]}),
        (400, "/transactions/{transaction_id}/reverse", {"transaction_id": m.passed_on}, {}),
        (
            409,
            "/transactions/{transaction_id}/reverse",
            {"transaction_id": m.passed_on},
            {"amount": "2"},
        ),
        (
            403,
            "/transactions/{transaction_id}/reverse",
            {"transaction_id": m.passed_on},
            {"force": True, "actor": "me", "description": "by order"},
        ),
        (400, "/holds", {}, {"account_id": m.own, "amount": "9"}),
        (409, "/holds", {}, {"account_id": m.frozen, "amount": "9"}),
        (409, "/holds/{hold_id}/capture", hold, {"amount": "2"}),
        (409, "/holds/{hold_id}/release", hold, {"amount": "2"}),
        (409, "/accounts/{account_id}", {"account_id": m.own}, closing),
        (409, "/schedules/{schedule_id}/cancel", {"schedule_id": m.cancelled}, {}),
        (409, "/batches", {}, {"movements": [item], "mode": "atomic"}),
        (409, "/accounts", {}, {"owner": "other", "currency": "USD", "reference": "taken"}),
        (409, "/currencies", {}, {"code": "USD", "exponent": 0, "name": "Dollars"}),
    ]


WITHOUT_KEY = {"/batches", "/accounts", "/currencies", "/ledgers"}


def test_every_way_to_be_declined_is_declared(service, made) -> None:
    cases = declines(made)
    asked = {path for _, path, *_ in cases}
    # Where nothing is declined, or each item by itself.
    others = {
        path for path, _ in WRITES if not path.startswith(("/webhooks", "/approvals"))
    } - asked
    assert others == {"/ledgers", "/accounts/batches"}
    for number, (status, path, ids, body) in enumerate(cases):
        method = "patch" if path == "/accounts/{account_id}" else "post"
        key = {} if path in WITHOUT_KEY else {"idempotency_key": f"declined {number}"}
        answer = service.client.request(
            method, path.format(**ids), content=json.dumps(body | key), headers=JSON
        )
        assert answer.status_code == status, (path, answer.text)
        assert status in declared(path, method), path
