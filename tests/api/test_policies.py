"""An account's policy: floor, ceiling, frozen, closed; and who changed it when and why."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from ledgerservice.postgres.verification import verify
from tests.databases import url_text
from tests.processes import RunningService, serving


@pytest.fixture(scope="module")
def service(new_database) -> Iterator[RunningService]:
    """`verify` finds nothing in its ledger at the end."""
    database = new_database()
    with serving(DATABASE_URL=url_text(database)) as running:
        yield running
    assert list(verify(database.owner_engine())) == []


def change(service: RunningService, account: int, **body: Any) -> httpx.Response:
    return service.send(f"/accounts/{account}", "PATCH", **body)


def verdict(answer: httpx.Response) -> str:
    return str(answer.json().get("code", answer.json()["status"]))


def deposit(service: RunningService, account: int, amount: str) -> str:
    return verdict(service.send("/deposit", account_id=account, amount=amount))


def withdraw(service: RunningService, account: int, amount: str) -> str:
    return verdict(service.send("/withdraw", account_id=account, amount=amount))


def test_a_floor_grants_an_overdraft_or_demands_a_minimum(service) -> None:
    a = service.open(balance="10")
    answer = change(service, a, floor="-50", actor="credit desk", reason="good customer")
    assert (answer.status_code, answer.json()["floor"]) == (200, "-50.00")
    assert withdraw(service, a, "60.01") == "insufficient_funds"
    assert withdraw(service, a, "60") == "posted"
    assert service.account(a, "balance", "floor") == ("-50.00", "-50.00")
    # Taken back while it is used: nothing more goes out, until there is something.
    assert change(service, a, floor="0").status_code == 200
    assert withdraw(service, a, "0.01") == "insufficient_funds"
    assert deposit(service, a, "49.99") == "posted"
    assert withdraw(service, a, "0.01") == "insufficient_funds"
    assert deposit(service, a, "1.01") == "posted"
    assert withdraw(service, a, "1") == "posted"
    assert change(service, a, floor="20").status_code == 200
    assert deposit(service, a, "100") == "posted"
    assert withdraw(service, a, "80.01") == "insufficient_funds"
    assert withdraw(service, a, "80") == "posted"
    changes = service.get(f"/accounts/{a}/policies").json()
    assert [c["floor"] for c in changes] == ["20.00", "0.00", "-50.00"]
    assert (changes[2]["actor"], changes[2]["reason"]) == ("credit desk", "good customer")
    assert changes[2]["changed_at"] == answer.json()["recorded_at"]
    assert changes[2]["version"] == answer.json()["entries"][0]["version"] == 2


def test_a_ceiling_bounds_what_comes_in(service) -> None:
    a, b = service.open(balance="10"), service.open(balance="100")
    assert change(service, a, ceiling="50.5").status_code == 200
    assert deposit(service, a, "40.51") == "balance_ceiling"
    assert deposit(service, a, "40.5") == "posted"
    into = {"from_account_id": b, "to_account_id": a, "amount": "1"}
    assert verdict(service.send("/transfer", **into)) == "balance_ceiling"
    assert change(service, a, ceiling="20").status_code == 200  # below the balance: out only
    assert withdraw(service, a, "1") == "posted"
    assert deposit(service, a, "1") == "balance_ceiling"
    assert change(service, a, floor="21").json()["code"] == "policy_conflict"
    assert change(service, a, ceiling=None).status_code == 200
    assert service.account(a, "ceiling") == (None,)
    assert deposit(service, a, "1000") == "posted"


FROZEN = [
    ("debits", "account_frozen", "posted"),
    ("credits", "posted", "account_frozen"),
    ("both", "account_frozen", "account_frozen"),
    (None, "posted", "posted"),
]


@pytest.mark.parametrize(("frozen", "out", "into"), FROZEN)
def test_frozen(service, frozen, out, into) -> None:
    a, b = service.open(balance="100"), service.open(balance="100")
    kept, freed, incoming = (
        service.send("/holds", account_id=account, amount="5", to_account_id=other).json()
        for account, other in ((a, b), (a, b), (b, a))
    )
    assert change(service, a, frozen=frozen).status_code == 200
    status = "frozen" if frozen else "active"
    assert service.account(a, "status", "frozen") == (status, frozen)
    assert withdraw(service, a, "1") == out
    assert deposit(service, a, "1") == into
    outward = {"from_account_id": a, "to_account_id": b, "amount": "1"}
    assert verdict(service.send("/transfer", **outward)) == out
    inward = {"from_account_id": b, "to_account_id": a, "amount": "1"}
    assert verdict(service.send("/transfer", **inward)) == into
    assert verdict(service.send("/holds", account_id=a, amount="1")) == out
    assert verdict(service.send(f"/holds/{kept['hold_id']}/capture")) == out
    assert verdict(service.send(f"/holds/{freed['hold_id']}/release")) == "posted"
    assert verdict(service.send(f"/holds/{incoming['hold_id']}/capture")) == into
    assert change(service, a, frozen=None).status_code == 200
    assert service.account(a, "status") == ("active",)


def test_an_account_is_closed_empty_and_for_ever(service) -> None:
    a, b = service.open(balance="5"), service.open(balance="5")
    hold = service.send("/holds", account_id=a, amount="5", to_account_id=b).json()["hold_id"]
    declined = change(service, a, closed=True)
    assert (declined.status_code, declined.json()["code"]) == (409, "balance_not_zero")
    assert service.send(f"/holds/{hold}/capture").status_code == 200
    assert change(service, a, closed=True, reason="asked for").status_code == 200
    assert service.account(a, "status", "closed") == ("closed", True)
    assert deposit(service, a, "1") == "account_closed"
    assert withdraw(service, a, "1") == "account_closed"
    assert verdict(service.send("/holds", account_id=a, amount="1")) == "account_closed"
    for body in ({"floor": "-5"}, {"frozen": None}, {"closed": True}):
        assert change(service, a, **body).json()["code"] == "account_closed"
    assert change(service, a, closed=False).json()["code"] == "invalid_request"


def test_a_policy_changes_in_the_middle_of_a_batch(service) -> None:
    a, b = service.open(balance="5"), service.open()
    move = {"type": "TRANSFER", "from_account_id": a, "to_account_id": b, "amount": "5"}
    policy = {"type": "POLICY", "account_id": a, "actor": "risk", "reason": "a test"}
    back = {"type": "TRANSFER", "from_account_id": b, "to_account_id": a, "amount": "12"}
    items = [
        move, move, policy | {"floor": "-10"}, move, move, move, policy | {"floor": "0"}, move,
        back, policy | {"closed": True}, back | {"amount": "3"}, move,
        policy | {"closed": True},
        {"type": "WITHDRAW", "account_id": a, "amount": "5"}, policy | {"closed": True},
        back | {"amount": "1"},
    ]  # fmt: skip
    keyed = [{**item, "idempotency_key": f"mid {n}"} for n, item in enumerate(items)]
    results = service.post("/batches", {"movements": keyed}).json()["results"]
    codes = [r["body"].get("code", r["status"]) for r in results]
    assert codes == [
        200, "insufficient_funds", 200, 200, 200, "insufficient_funds", 200, "insufficient_funds",
        200, "balance_not_zero", 200, 200,
        200, "account_closed", "account_closed", "account_closed",
    ]  # fmt: skip
    assert service.account(a, "balance", "status") == ("0.00", "closed")


def test_changes_at_the_same_moment_all_count(service) -> None:
    a = service.open(balance="5")

    def run(n: int) -> int:
        body = {"floor": f"-{n}", "idempotency_key": f"race {n}", "actor": "a", "reason": "r"}
        return service.client.patch(f"/accounts/{a}", json=body).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(run, range(30))) == {200}
    changes = service.get(f"/accounts/{a}/policies?limit=1000").json()
    assert len(changes) == 30
    assert service.account(a, "floor") == (changes[0]["floor"],)
    pages: list[dict[str, Any]] = []
    target = f"/accounts/{a}/policies?limit=7"
    while target:
        page = service.get(target)
        pages += page.json()
        target = page.links.get("next", {}).get("url", "")
    assert pages == changes


def test_a_change_has_a_key_of_its_own(service) -> None:
    a = service.open()
    body = {"floor": "-1.0", "idempotency_key": "p", "actor": "x", "reason": "r"}
    first = service.client.patch(f"/accounts/{a}", json=body)
    again = service.client.patch(f"/accounts/{a}/", json=body | {"floor": -1})
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    for other in ({"floor": "-2"}, {"actor": "y"}, {"ceiling": None}, {"frozen": None}):
        reused = service.client.patch(f"/accounts/{a}", json=body | other)
        assert reused.json()["code"] == "idempotency_key_reused"


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({}, "invalid_request"),
    ({"floor": "-1", "actor": None}, "invalid_request"),
    ({"floor": "-1", "reason": None}, "invalid_request"),
    ({"actor": "x"}, "invalid_request"),
    ({"floor": "x"}, "invalid_request"),
    ({"floor": "--1"}, "invalid_request"),
    ({"floor": "-0.001"}, "amount_precision"),
    ({"floor": "-10000000000000000.01"}, "amount_limit"),
    ({"ceiling": "1e5"}, "invalid_request"),
    ({"frozen": "all"}, "invalid_request"),
    ({"frozen": 3}, "invalid_request"),
    ({"closed": "yes"}, "invalid_request"),
    ({"floor": "1", "ceiling": "0"}, "policy_conflict"),
    ({"floor": "1", "reason": "r" * 1001}, "invalid_request"),
    ({"floor": "1", "actor": "nul \0"}, "invalid_request"),
    ({"balance": "1000"}, "invalid_request"),
    ({"floor": "1", "account_id": 1}, "invalid_request"),
]


@pytest.mark.parametrize(("body", "code"), HOSTILE, ids=str)
def test_hostile_changes_are_refused(service, body, code) -> None:
    a = service.open()
    assert change(service, a, **body).json()["code"] == code
    assert service.account(a, "floor", "ceiling", "status") == ("0.00", None, "active")


@pytest.mark.parametrize("account", [-1, 0, 10**12, "x"])
def test_only_customers_accounts_have_policies(service, account) -> None:
    refused = change(service, account, floor="-5")
    assert (refused.status_code, refused.json()["code"]) == (404, "account_not_found")
