"""Holds: reserved, captured in parts or whole, released, expired; and transfers to come."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest

from ledgerservice.domain.instructions import Group, Schedule
from ledgerservice.errors import Overloaded
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.verification import verify
from ledgerservice.posting.due import sweep
from ledgerservice.posting.movements import MovementBatch
from tests.databases import connect, url_text
from tests.postings import open_accounts
from tests.processes import RunningService, serving

FAR = "2099-01-01T00:00:00.000000Z"


def soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def hold(service: RunningService, account: int, amount: str, **terms: Any) -> dict[str, Any]:
    answer = service.send("/holds/", account_id=account, amount=amount, **terms)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def state(service: RunningService, hold_id: int) -> tuple[str, ...]:
    body = service.get(f"/holds/{hold_id}").json()
    return tuple(body[name] for name in ("status", "captured", "released", "remaining"))


FIGURES = ("balance", "held", "available")


def test_a_hold_reserves_and_moves_nothing(service: RunningService) -> None:
    a, b = service.open(balance="100"), service.open()
    placed = hold(service, a, "30", to_account_id=b, expires_at=FAR)
    assert service.account(a, *FIGURES, "version") == ("100.00", "30.00", "70.00", 2)
    assert placed["entries"] == [
        {"account_id": a, "currency": "USD", "amount": "0.00", "balance": "100.00",
         "held_change": "30.00", "held": "30.00", "version": 2},
    ]  # fmt: skip
    assert (placed["remaining"], placed["expires_at"]) == ("30.00", FAR)
    declined = service.send("/withdraw", account_id=a, amount="70.01")
    assert declined.json()["decided_on"]["available"] == "70.00"
    assert service.send("/holds", account_id=a, amount="70.01").json()["code"] == (
        "insufficient_funds"
    )
    assert service.send("/withdraw", account_id=a, amount="70").status_code == 200


def test_a_hold_is_captured_in_parts_and_the_last_releases_the_rest(
    service: RunningService,
) -> None:
    a, b = service.open(balance="100"), service.open()
    number = hold(service, a, "30", to_account_id=b)["hold_id"]
    first = service.send(f"/holds/{number}/capture", amount="10")
    assert (first.status_code, first.json()["remaining"]) == (200, "20.00")
    assert service.account(a, *FIGURES) == ("90.00", "20.00", "70.00")
    assert state(service, number) == ("open", "10.00", "0.00", "20.00")
    over = service.send(f"/holds/{number}/capture", amount="20.01")
    assert (over.status_code, over.json()["code"]) == (409, "hold_exceeded")
    last = service.send(f"/holds/{number}/capture", amount="5", final=True)
    assert last.json()["remaining"] == "0.00"
    assert service.account(a, *FIGURES) == ("85.00", "0.00", "85.00")
    assert service.account(b, "balance") == ("15.00",)
    assert state(service, number) == ("captured", "15.00", "15.00", "0.00")
    for step in ("capture", "release"):
        closed = service.send(f"/holds/{number}/{step}")
        assert (closed.status_code, closed.json()["code"]) == (409, "hold_closed")
    steps = service.get(f"/transactions/{number}").json()["steps"]
    assert steps == [first.json()["transaction_id"], last.json()["transaction_id"]]


def test_a_hold_is_captured_whole_or_released(service: RunningService) -> None:
    a = service.open(balance="100")
    outward = hold(service, a, "30")  # to the outside
    assert service.send(f"/holds/{outward['hold_id']}/capture/").status_code == 200
    assert service.account(a, *FIGURES) == ("70.00", "0.00", "70.00")
    number = hold(service, a, "30")["hold_id"]
    assert service.send(f"/holds/{number}/release", amount="10").json()["remaining"] == "20.00"
    assert state(service, number) == ("open", "0.00", "10.00", "20.00")
    assert service.send(f"/holds/{number}/release").json()["amount"] == "20.00"
    assert state(service, number) == ("released", "0.00", "30.00", "0.00")
    assert service.account(a, *FIGURES) == ("70.00", "0.00", "70.00")


def test_a_step_needs_no_body(service: RunningService) -> None:
    """All that is left is captured by nothing but a key."""
    a = service.open(balance="100")
    for step, headers, status in (
        ("capture", {"Idempotency-Key": "k"}, 200),
        ("capture", {}, 422),
        ("release", {"Idempotency-Key": "r"}, 200),
    ):
        number = hold(service, a, "30")["hold_id"]
        answer = service.client.post(f"/holds/{number}/{step}", headers=headers)
        assert answer.status_code == status, answer.text
    assert answer.json()["remaining"] == "0.00"


def test_captures_at_the_same_moment_never_exceed_the_hold(service: RunningService) -> None:
    a, b = service.open(balance="100"), service.open()
    number = hold(service, a, "10", to_account_id=b)["hold_id"]

    def capture(n: int) -> int:
        body = {"amount": "3", "idempotency_key": f"race {n}"}
        return service.post(f"/holds/{number}/capture", body).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(capture, range(40)))
    assert sorted(set(statuses)) == [200, 409]
    assert statuses.count(200) == 3
    assert service.account(b, "balance") == ("9.00",)
    assert state(service, number) == ("open", "9.00", "0.00", "1.00")


@pytest.fixture(scope="module")
def sleepy(new_database: Callable[..., Database]) -> Iterator[tuple[RunningService, Database]]:
    """A service whose sweeper never comes by."""
    database = new_database()
    with serving(DATABASE_URL=url_text(database), LEDGER_SWEEP_INTERVAL_S="3600") as running:
        yield running, database


def test_an_expired_hold_reserves_nothing_before_any_sweeper_comes(sleepy) -> None:
    service, database = sleepy
    a = service.open(balance="100")
    number = hold(service, a, "60", expires_at=soon(0.4))["hold_id"]
    assert service.account(a, *FIGURES) == ("100.00", "60.00", "40.00")
    time.sleep(0.6)
    assert service.account(a, *FIGURES, "version") == ("100.00", "0.00", "100.00", 2)
    listed = [row for row in service.get("/accounts/?limit=1000").json() if row["id"] == a]
    assert (listed[0]["held"], listed[0]["available"]) == ("0.00", "100.00")
    assert state(service, number) == ("expired", "0.00", "60.00", "0.00")
    late = service.send(f"/holds/{number}/capture")
    assert late.json()["code"] == "hold_closed"
    assert service.account(a, *FIGURES, "version") == ("100.00", "0.00", "100.00", 3)
    assert state(service, number) == ("expired", "0.00", "60.00", "0.00")
    second = hold(service, a, "100", expires_at=soon(0.3))
    time.sleep(0.5)
    assert service.send("/withdraw", account_id=a, amount="100").status_code == 200
    released = service.get(f"/transactions/{second['hold_id']}").json()["steps"]
    kinds = [service.get(f"/transactions/{n}").json()["transaction_type"] for n in released]
    assert kinds == ["RELEASE"]
    assert list(verify(database.owner_engine())) == []


def open_of(service: RunningService, account: int, kind: str, limit: int) -> list[dict[str, Any]]:
    """All pages of an account's open holds or pending transfers."""
    found: list[dict[str, Any]] = []
    target = f"/accounts/{account}/{kind}/?limit={limit}"
    while target:
        page = service.get(target)
        assert page.status_code == 200, page.text
        found += page.json()
        target = page.links.get("next", {}).get("url", "")
        assert len(page.json()) == limit if target else len(page.json()) <= limit
    return found


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
def test_what_is_open_is_listed_by_when_it_ends(sleepy, limit: int) -> None:
    """What does not end by itself comes last; what has ended is not there, swept or not."""
    service, _ = sleepy
    a, b = service.open(balance="100"), service.open(balance="100")
    hold(service, b, "9")
    later = "2099-01-02T00:00:00Z"
    brief = soon(0.5)
    terms: list[dict[str, Any]] = [
        {}, {"expires_at": later}, {"expires_at": FAR}, {"expires_at": brief}, {},
        {"expires_at": FAR}, {"capture_at": FAR}, {"capture_at": FAR, "expires_at": later},
        {"expires_at": FAR}, {"expires_at": later},
    ]  # fmt: skip
    ids = [hold(service, a, "2", **term)["hold_id"] for term in terms]
    service.send(f"/holds/{ids[4]}/release")
    service.send(f"/holds/{ids[9]}/capture")
    service.send(f"/holds/{ids[5]}/capture", amount="0.50")
    time.sleep(max(0.0, (datetime.fromisoformat(brief) - datetime.now(UTC)).total_seconds()))
    listed = open_of(service, a, "holds", limit)
    assert [ids.index(body["id"]) for body in listed] == [2, 5, 8, 1, 0, 6, 7]
    assert all(service.get(f"/holds/{body['id']}").json() == body for body in listed)
    assert service.account(a, "held") == (f"{sum(float(h['remaining']) for h in listed):.2f}",)
    transfers = [schedule(service, a, b, "1", when) for when in (later, FAR, later, FAR)]
    service.send(f"/schedules/{transfers[2]['schedule_id']}/cancel")
    pending = open_of(service, a, "schedules", limit)
    assert pending == [settled(service, transfers[n]) for n in (1, 3, 0)]
    assert open_of(service, b, "schedules", limit) == []


def test_a_list_of_what_is_open_is_of_an_account(service: RunningService) -> None:
    a, b = service.open(balance="100"), service.open(balance="100")
    for account in (a, a, b):
        hold(service, account, "2")
        schedule(service, account, a + b - account, "2", FAR)
    pages = {
        (account, kind): service.get(f"/accounts/{account}/{kind}?limit=1").links["next"]["url"]
        for account in (a,)
        for kind in ("holds", "schedules")
    }
    for (account, kind), link in pages.items():
        cursor = httpx.URL(link).params["cursor"]
        assert len(service.get(f"/accounts/{account}/{kind}?cursor={cursor}").json()) == 1
        for other in (f"{b}/{kind}", f"{a}/policies", f"{a}/history",
                      f"{a}/{'schedules' if kind == 'holds' else 'holds'}"):  # fmt: skip
            refused = service.get(f"/accounts/{other}?cursor={cursor}")
            assert (refused.status_code, refused.json()["code"]) == (422, "invalid_cursor")
        for query in ("limit=0", "status=open", "cursor=x", "limit=1&limit=2"):
            assert service.get(f"/accounts/{a}/{kind}?{query}").status_code == 422
        for nobody in (10**12, "x", 0):
            missing = service.get(f"/accounts/{nobody}/{kind}")
            assert (missing.status_code, missing.json()["code"]) == (404, "account_not_found")


def test_what_the_service_does_by_itself_says_what_it_is_for(new_database) -> None:
    database = new_database()
    with serving(DATABASE_URL=url_text(database), LEDGER_SWEEP_INTERVAL_S="0.1") as service:
        a, b = service.open(balance="100"), service.open()
        detail = {"description": "rent", "reference": "r-1", "metadata": {"flat": 7}}
        due = hold(service, a, "20", to_account_id=b, capture_at=soon(0.2), **detail)["hold_id"]
        body = {"from_account_id": a, "to_account_id": b, "amount": "3", "execute_at": soon(0.2)}
        number = service.send("/transfer", **body, **detail).json()["schedule_id"]
        until(lambda: service.account(b, "balance") == ("23.00",))
        found = service.get("/transactions?reference=r-1&kind=TRANSFER").json()
        found += service.get("/transactions?reference=r-1&kind=CAPTURE").json()
        assert [(t["amount"], t.get("schedule_id", t.get("hold_id"))) for t in found] == [
            ("3.00", number), ("20.00", due)
        ]  # fmt: skip
        assert all(t[name] == value for t in found for name, value in detail.items())
        totals = service.get("/reports/totals?key=flat").json()
        assert [(t["transactions"], t["amount"]) for t in totals] == [(2, "23.00")]
        twice = service.send("/transfer", **body, effective_at=soon(-9))
        assert twice.json()["errors"][0]["field"] == "body"
    assert list(verify(database.owner_engine())) == []


@pytest.mark.thorough
def test_what_was_to_be_captured_first_does_not_expire_before_that(new_database) -> None:
    """Whoever was away over both moments finds the hold as it was promised."""
    database = new_database()
    url = url_text(database)
    with serving(DATABASE_URL=url, LEDGER_SWEEP_INTERVAL_S="3600") as service:
        a, b = service.open(balance="100"), service.open()
        frozen = service.open(balance="9")
        later = {"capture_at": soon(0.3), "expires_at": soon(0.4)}
        due = hold(service, a, "20", to_account_id=b, **later)["hold_id"]
        stuck = hold(service, frozen, "9", **later)["hold_id"]
        service.send(f"/accounts/{frozen}", "PATCH", frozen="debits")
        time.sleep(0.7)
        # Nothing has come by, and no decision or read takes it for expired.
        assert state(service, due) == ("open", "0.00", "0.00", "20.00")
        assert service.account(a, *FIGURES) == ("100.00", "20.00", "80.00")
        then = service.get(f"/accounts/{a}?as_of={soon(-0.01)}").json()
        assert then["held"] == "20.00"
        assert service.send("/withdraw", account_id=a, amount="81").status_code == 400
    with serving(DATABASE_URL=url, LEDGER_SWEEP_INTERVAL_S="0.1") as service:
        until(lambda: service.account(b, "balance") == ("20.00",))
        assert state(service, due) == ("captured", "20.00", "0.00", "0.00")
        # What was tried in vain expires.
        until(lambda: state(service, stuck)[0] == "expired")
        until(lambda: service.account(frozen, *FIGURES) == ("9.00", "0.00", "9.00"))
    assert list(verify(database.owner_engine())) == []


@pytest.mark.thorough
def test_the_sweeper_releases_and_captures_what_is_due(new_database) -> None:
    database = new_database()
    with serving(DATABASE_URL=url_text(database), LEDGER_SWEEP_INTERVAL_S="0.1") as service:
        a, b = service.open(balance="100"), service.open()
        expiring = hold(service, a, "10", expires_at=soon(0.5))["hold_id"]
        due = hold(service, a, "20", to_account_id=b, capture_at=soon(0.5))["hold_id"]
        assert service.send(f"/holds/{due}/capture", amount="5").status_code == 200
        key = f"expiry {expiring}"
        service.send("/deposit", account_id=a, amount="1", idempotency_key=key)
        frozen = service.open(balance="9")
        stuck = hold(service, frozen, "9", capture_at=soon(0.5), expires_at=soon(1.5))["hold_id"]
        service.send(f"/accounts/{frozen}", "PATCH", frozen="debits")
        until(lambda: service.account(a, "held") == ("0.00",))
        assert state(service, expiring) == ("expired", "0.00", "10.00", "0.00")
        assert state(service, due) == ("captured", "20.00", "0.00", "0.00")
        until(lambda: len(service.get(f"/transactions/{stuck}").json().get("steps", [])) == 1)
        assert state(service, stuck) == ("expired", "0.00", "9.00", "0.00")
        declined = service.get(f"/accounts/{frozen}/keys/capture%20{stuck}")
        assert declined.status_code == 404  # no caller's key; the record is there all the same
        taken = service.get(f"/accounts/{a}/keys/expiry%20{expiring}").json()
        assert taken["transaction_type"] == "DEPOSIT"  # keys of callers and of the service differ
    with connect(database) as owner:
        reasons = owner.execute("SELECT decline_reason FROM ledger.transactions WHERE status = 2")
        assert reasons.fetchall() == [("account_frozen",)]
    assert list(verify(database.owner_engine())) == []


def until(condition: Callable[[], bool], limit_s: float = 15) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.05)


REFUSED_HOLDS: list[tuple[dict[str, Any], str]] = [
    ({"amount": "0"}, "invalid_request"),
    ({"amount": "-1"}, "invalid_request"),
    ({"amount": "0.001"}, "amount_precision"),
    ({"amount": "10000000000000.01"}, "amount_limit"),
    ({"account_id": 10**12}, "account_not_found"),
    ({"account_id": -1}, "account_not_found"),
    ({"to_account_id": 10**12}, "account_not_found"),
    ({"to_account_id": -1}, "account_not_found"),
    ({"expires_at": "2020-01-01T00:00:00Z"}, "expiry_passed"),
    ({"expires_at": "tomorrow"}, "invalid_request"),
    ({"expires_at": "2030-01-01T00:00:00Z", "capture_at": "2031-01-01T00:00:00Z"},
     "invalid_request"),
    ({"final": True}, "invalid_request"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "code"), REFUSED_HOLDS)
def test_holds_that_are_not_right_are_refused(service, change, code) -> None:
    body = {"account_id": service.open(balance="1"), "amount": "1", **change}
    assert service.send("/holds", **body).json()["code"] == code


def test_a_hold_is_between_two_accounts_of_a_currency(service: RunningService) -> None:
    a, rupees = service.open(balance="1"), service.open(currency="INR")
    for other, code in ((a, "same_account"), (rupees, "currency_mismatch")):
        refused = service.send("/holds", account_id=a, amount="1", to_account_id=other)
        assert refused.json()["code"] == code


@pytest.mark.parametrize("step", ["capture", "release"])
def test_steps_are_of_holds_only(service: RunningService, step: str) -> None:
    a = service.open(balance="1")
    deposit = service.get(f"/accounts/{a}/keys/funding").json()["transaction_id"]
    declined = service.send("/holds", account_id=a, amount="99").json()["transaction_id"]
    for number in (deposit, declined, 10**12, "x", 0, -1):
        refused = service.send(f"/holds/{number}/{step}")
        assert (refused.status_code, refused.json()["code"]) == (404, "hold_not_found")
        assert service.get(f"/holds/{number}").json()["code"] == "hold_not_found"
    number = hold(service, a, "1")["hold_id"]
    for body, code in (
        ({"amount": "0"}, "invalid_request"),
        ({"amount": "0.001"}, "amount_precision"),
        ({"hold_id": number}, "invalid_request"),
        ({"final": "yes"}, "invalid_request"),
    ):
        assert service.send(f"/holds/{number}/{step}", **body).json()["code"] == code


def test_a_step_has_a_key_of_its_own(service: RunningService) -> None:
    a = service.open(balance="10")
    first, second = hold(service, a, "1"), hold(service, a, "2")
    body = {"amount": "1.0", "idempotency_key": "step"}
    done = service.post(f"/holds/{first['hold_id']}/capture", body)
    again = service.post(f"/holds/{first['hold_id']}/capture", body | {"amount": "1"})
    assert (again.content, again.headers["idempotency-replayed"]) == (done.content, "true")
    for path, change in (
        (f"/holds/{first['hold_id']}/capture", {"final": True}),
        (f"/holds/{first['hold_id']}/release", {}),
        (f"/holds/{second['hold_id']}/capture", {}),  # the same account, so the same keys
    ):
        reused = service.post(path, body | change)
        assert reused.json()["code"] == "idempotency_key_reused"


# Transfers to come.


def schedule(service: RunningService, a: int, b: int, amount: str, at: str) -> dict[str, Any]:
    body = {"from_account_id": a, "to_account_id": b, "amount": amount, "execute_at": at}
    answer = service.send("/transfer/", **body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.thorough
def test_a_scheduled_transfer_is_made_once_and_survives_a_kill(new_database) -> None:
    database = new_database()
    values = {"DATABASE_URL": url_text(database), "LEDGER_SWEEP_INTERVAL_S": "0.1"}
    with serving(**values) as service:
        a, b = service.open(balance="10"), service.open()
        due = soon(3)
        scheduled = [schedule(service, a, b, amount, due) for amount in ("4", "5", "6")]
        later = schedule(service, a, b, "1", FAR)
        assert scheduled[0]["transaction_type"] == "SCHEDULE"
        assert service.account(a, *FIGURES, "version") == ("10.00", "0.00", "10.00", 5)
        assert service.get(f"/schedules/{later['schedule_id']}").json()["status"] == "pending"
        service.process.kill()
    time.sleep(max(0, (datetime.fromisoformat(due) - datetime.now(UTC)).total_seconds()))
    with serving(**values) as first, serving(**values) as service:
        for body in scheduled:
            until(partial(is_done, service, body))
        # The money is there for two of them; the third is declined like any other.
        ends = sorted(settled(service, body)["status"] for body in scheduled)
        assert ends in (["declined", "executed", "executed"],)
        assert first.account(a, "balance") == (service.account(a, "balance"))
        transaction = settled(service, scheduled[0])["settled_by"]
        record = service.get(f"/transactions/{transaction}").json()
        assert record["schedule_id"] == scheduled[0]["schedule_id"]
        assert record["transaction_type"] == "TRANSFER"
    with connect(database) as owner:
        count = "SELECT count(*) FROM ledger.transactions WHERE kind = 3"
        assert owner.execute(count).fetchone() == (3,)
    assert list(verify(database.owner_engine())) == []


def settled(service: RunningService, body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = service.get(f"/schedules/{body['schedule_id']}").json()
    return found


def is_done(service: RunningService, body: dict[str, Any]) -> bool:
    return bool(settled(service, body)["status"] != "pending")


def test_a_scheduled_transfer_is_cancelled_once(service: RunningService) -> None:
    a, b = service.open(balance="10"), service.open()
    scheduled = schedule(service, a, b, "4", FAR)
    number = scheduled["schedule_id"]
    cancelled = service.send(f"/schedules/{number}/cancel", description="changed my mind")
    assert cancelled.status_code == 200
    assert settled(service, scheduled)["status"] == "cancelled"
    assert settled(service, scheduled)["settled_by"] == cancelled.json()["transaction_id"]
    late = service.send(f"/schedules/{number}/cancel")
    assert (late.status_code, late.json()["code"]) == (409, "schedule_settled")
    for other in (cancelled.json()["transaction_id"], 10**12, "x"):
        refused = service.send(f"/schedules/{other}/cancel")
        assert (refused.status_code, refused.json()["code"]) == (404, "schedule_not_found")
        assert service.get(f"/schedules/{other}").json()["code"] == "schedule_not_found"


REFUSED_SCHEDULES: list[tuple[dict[str, Any], str]] = [
    ({"execute_at": "soon"}, "invalid_request"),
    ({"execute_at": "2099-01-01"}, "invalid_request"),
    ({"amount": "0.001"}, "amount_precision"),
    ({"to_account_id": 10**12}, "account_not_found"),
    ({"to_account_id": -1}, "account_not_found"),
    ({"from_account_id": 10**12}, "account_not_found"),
]


@pytest.mark.parametrize(("change", "code"), REFUSED_SCHEDULES)
def test_schedules_that_are_not_right_are_refused(service, change, code) -> None:
    a, b = service.open(balance="1"), service.open()
    body = {"from_account_id": a, "to_account_id": b, "amount": "1", "execute_at": FAR, **change}
    assert service.send("/transfer", **body).json()["code"] == code


def test_a_schedule_is_between_two_accounts_of_a_currency(service: RunningService) -> None:
    a, rupees = service.open(balance="1"), service.open(currency="INR")
    for other, code in ((a, "same_account"), (rupees, "currency_mismatch")):
        body = {"from_account_id": a, "to_account_id": other, "amount": "1", "execute_at": FAR}
        assert service.send("/transfer", **body).json()["code"] == code


def test_only_what_was_done_counts_as_done(database) -> None:
    """Else the sweeper would come again at once, and again, while nothing can be done."""
    open_accounts(database, "USD", "USD")

    async def away(_: Group) -> Any:
        raise Overloaded

    async def test() -> None:
        wire, work, engine = (
            await database.connect_writer(),
            MovementBatch(),
            database.read_engine(),
        )

        async def post(group: Group) -> Any:
            [answer] = await work(wire, [group])
            return answer

        await post(Group([Schedule(1, 2, "1", datetime.now(UTC), "due")]))
        assert [await sweep(engine, how) for how in (away, post, post)] == [0, 1, 0]
        await wire.close()
        await engine.dispose()

    asyncio.run(test())
