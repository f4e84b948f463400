"""Reversals: whole, in part, by leg, never more than the original, and forced."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from ledgerservice import Ledger
from ledgerservice.domain.instructions import Detail, Instruction, Reversal
from ledgerservice.domain.transactions import Recorded
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.verification import verify
from tests.databases import url_text
from tests.processes import RunningService, serving


@pytest.fixture(scope="module")
def ledger(new_database) -> Database:
    database: Database = new_database()
    return database


@pytest.fixture(scope="module")
def service(ledger) -> Iterator[RunningService]:
    """`verify` finds nothing in its ledger at the end."""
    database = ledger
    with serving(DATABASE_URL=url_text(database)) as running:
        yield running
    assert list(verify(database.owner_engine())) == []


def moved(service: RunningService, path: str, **body: Any) -> int:
    answer = service.send(path, **body)
    assert answer.status_code == 200, answer.text
    number: int = answer.json()["transaction_id"]
    return number


def reverse(service: RunningService, number: int, **body: Any) -> httpx.Response:
    return service.send(f"/transactions/{number}/reverse", **body)


def balances(service: RunningService, *accounts: int) -> list[str]:
    return [service.account(account, "balance")[0] for account in accounts]


def test_a_transfer_is_reversed_in_parts_and_never_more_than_whole(service) -> None:
    a, b = service.open(balance="100"), service.open()
    number = moved(service, "/transfer", from_account_id=a, to_account_id=b, amount="30")
    part = reverse(service, number, amount="10", description="one item came back")
    assert (part.status_code, part.json()["reverses"]) == (200, number)
    assert [(e["account_id"], e["amount"]) for e in part.json()["entries"]] == [
        (a, "10.00"), (b, "-10.00"),
    ]  # fmt: skip
    over = reverse(service, number, amount="20.01")
    assert (over.status_code, over.json()["code"]) == (409, "reversal_exceeded")
    rest = reverse(service, number)
    assert rest.json()["amount"] == "20.00"
    assert balances(service, a, b) == ["100.00", "0.00"]
    for body in ({}, {"amount": "0.01"}):
        assert reverse(service, number, **body).json()["code"] == "reversal_exceeded"
    original = service.get(f"/transactions/{number}").json()
    parts = [answer.json()["transaction_id"] for answer in (part, rest)]
    assert original["reversed_by"] == parts
    assert [service.get(f"/transactions/{n}").json()["reverses"] for n in parts] == [number] * 2


def test_reversals_at_the_same_moment_never_exceed_the_original(service) -> None:
    a, b = service.open(balance="100"), service.open(balance="100")
    number = moved(service, "/transfer", from_account_id=a, to_account_id=b, amount="10")

    def run(n: int) -> int:
        body = {"amount": "3", "idempotency_key": f"race {n}"}
        return service.post(f"/transactions/{number}/reverse", body).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(run, range(30)))
    assert (statuses.count(200), statuses.count(409)) == (3, 27)
    assert balances(service, a, b) == ["99.00", "101.00"]


def test_whatever_moved_money_can_be_reversed(service) -> None:
    a, b = service.open(balance="100"), service.open()
    hold = moved(service, "/holds", account_id=a, amount="5", to_account_id=b)
    legs = [{"account_id": a, "amount": "-3"}, {"account_id": b, "amount": "3"}]
    for number in (
        moved(service, "/deposit", account_id=a, amount="7"),
        moved(service, "/withdraw", account_id=a, amount="7"),
        moved(service, f"/holds/{hold}/capture"),
        moved(service, "/transactions", legs=legs),
    ):
        before = balances(service, a, b)
        amounts = {
            e["account_id"]: float(e["amount"])
            for e in service.get(f"/transactions/{number}").json()["entries"]
        }
        assert reverse(service, number).status_code == 200
        after = balances(service, a, b)
        for account, was, now in zip((a, b), before, after, strict=True):
            assert float(now) == float(was) - amounts.get(account, 0)


def test_what_moved_no_money_cannot(service) -> None:
    a, b = service.open(balance="100"), service.open()
    hold = moved(service, "/holds", account_id=a, amount="5")
    transfer = moved(service, "/transfer", from_account_id=a, to_account_id=b, amount="1")
    far = {"from_account_id": a, "to_account_id": b, "execute_at": "2099-01-01T00:00:00Z"}
    for number in (
        hold,
        moved(service, f"/holds/{hold}/release"),
        reverse(service, transfer).json()["transaction_id"],
        service.send("/withdraw", account_id=a, amount="999").json()["transaction_id"],
        service.send(f"/accounts/{a}", "PATCH", floor="0").json()["transaction_id"],
        moved(service, "/transfer", amount="1", **far),
    ):
        refused = reverse(service, number)
        assert (refused.status_code, refused.json()["code"]) == (422, "not_reversible")
    missing: Any
    for missing in (10**12, "x", 0):
        refused = reverse(service, missing)
        assert (refused.status_code, refused.json()["code"]) == (404, "transaction_not_found")


def test_by_leg(service) -> None:
    shop, fees, buyer = service.open(), service.open(), service.open(balance="100")
    legs = [
        {"account_id": buyer, "amount": "-50"},
        {"account_id": shop, "amount": "45"},
        {"account_id": fees, "amount": "5"},
    ]
    number = moved(service, "/transactions", legs=legs)
    assert reverse(service, number, amount="10").json()["code"] == "legs_unbalanced"
    back = [{"account_id": shop, "amount": "-20"}, {"account_id": buyer, "amount": "20"}]
    assert reverse(service, number, legs=back).status_code == 200
    assert balances(service, buyer, shop, fees) == ["70.00", "25.00", "5.00"]
    stranger = service.open(balance="100")
    for bad, code in (
        ([(shop, "-25.01"), (buyer, "25.01")], "reversal_exceeded"),
        ([(shop, "1"), (buyer, "-1")], "reversal_exceeded"),
        ([(shop, "-1"), (buyer, "2")], "legs_unbalanced"),
        ([(shop, "-1"), (shop, "-1"), (buyer, "2")], "legs_unbalanced"),
        ([(stranger, "-1"), (buyer, "1")], "account_not_found"),
        ([(shop, "-1")], "invalid_request"),
    ):
        given = [{"account_id": account, "amount": amount} for account, amount in bad]
        assert reverse(service, number, legs=given).json()["code"] == code
    both = reverse(service, number, amount="1", legs=back)
    assert both.json()["code"] == "invalid_request"
    assert reverse(service, number).status_code == 200
    assert balances(service, buyer, shop, fees, stranger) == ["100.00", "0.00", "0.00", "100.00"]


def test_two_currencies_are_reversed_together(service) -> None:
    usd, inr = service.open(balance="10"), service.open(currency="INR")
    dealer, rupees = service.open(), service.open(currency="INR", balance="1000")
    legs = [
        {"account_id": usd, "amount": "-10"},
        {"account_id": dealer, "amount": "10"},
        {"account_id": rupees, "amount": "-830"},
        {"account_id": inr, "amount": "830"},
    ]
    number = moved(service, "/transactions", legs=legs)
    assert reverse(service, number).status_code == 200
    assert balances(service, usd, inr, dealer, rupees) == ["10.00", "0.00", "0.00", "1000.00"]


async def post_by_program(database: Database, instruction: Instruction) -> Any:
    async with Ledger.open(url_text(database)) as ledger:
        [outcome] = await ledger.post([instruction])
        return outcome


def test_a_reversal_that_would_overdraw_is_declined_unless_forced(service, ledger) -> None:
    a, b = service.open(balance="100"), service.open()
    number = moved(service, "/transfer", from_account_id=a, to_account_id=b, amount="30")
    moved(service, "/withdraw", account_id=b, amount="25")
    declined = reverse(service, number)
    assert declined.json()["code"] == "insufficient_funds"
    assert declined.json()["decided_on"]["account_id"] == b
    body = {"force": True, "actor": "risk", "description": "fraud", "idempotency_key": "forced"}
    path = f"/transactions/{number}/reverse"
    refused = service.post(path, body)
    assert (refused.status_code, refused.json()["code"]) == (403, "approval_without_keys")
    item = {**body, "type": "REVERSAL", "transaction_id": number}
    [result] = service.post("/batches", {"movements": [item]}).json()["results"]
    assert result["body"]["code"] == "approval_without_keys"
    # A program that has the database may force it.
    detail = Detail("fraud")
    reversal = Reversal(number, "forced", detail, force=True, actor="risk")
    forced = asyncio.run(post_by_program(ledger, reversal))
    assert isinstance(forced, Recorded) and forced.transaction.refusal is None
    assert service.account(b, "balance", "available", "floor") == ("-25.00", "-25.00", "0.00")
    [change] = service.get(f"/accounts/{b}/policies").json()
    assert (change["forced_to"], change["actor"], change["reason"]) == ("-25.00", "risk", "fraud")
    # Below its floor an account takes money in, and gives none, also on its way back up.
    assert service.send("/withdraw", account_id=b, amount="1").json()["code"] == (
        "insufficient_funds"
    )
    moved(service, "/deposit", account_id=b, amount="20")
    assert service.send("/withdraw", account_id=b, amount="0.01").status_code == 400
    moved(service, "/deposit", account_id=b, amount="15")
    moved(service, "/withdraw", account_id=b, amount="10")
    assert service.account(b, "balance") == ("0.00",)


def test_the_key_is_of_the_original_s_account(service) -> None:
    a, b = service.open(balance="100"), service.open()
    first, second = (
        moved(service, "/transfer", from_account_id=a, to_account_id=b, amount="3")
        for _ in range(2)
    )
    body = {"amount": "1.0", "idempotency_key": "back"}
    done = service.post(f"/transactions/{first}/reverse", body)
    again = service.post(f"/transactions/{first}/reverse", body | {"amount": 1})
    assert (again.content, again.headers["idempotency-replayed"]) == (done.content, "true")
    assert service.get(f"/accounts/{a}/keys/back").json()["reverses"] == first
    for number, change in ((second, {}), (first, {"amount": "2"}), (first, {"reference": "r"})):
        reused = service.post(f"/transactions/{number}/reverse", body | change)
        assert reused.json()["code"] == "idempotency_key_reused"
