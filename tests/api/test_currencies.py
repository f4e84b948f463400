"""Currencies: those of ISO 4217, units of one's own, and exponents that never change."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import iso4217
import pytest

from ledgerservice.domain.currencies import CurrencyRequest
from ledgerservice.postgres.registration import add_currencies
from ledgerservice.posting.poster import Limits, Poster
from tests.databases import connect
from tests.processes import RunningService

BITCOIN = {"code": "BTC", "exponent": 8, "name": "Bitcoin"}


def pages(service: RunningService, target: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    while target:
        answer = service.get(target)
        rows += answer.json()
        target = answer.links.get("next", {}).get("url", "")
    return rows


def test_the_currencies_of_iso_4217_are_there(service: RunningService) -> None:
    rows: list[dict[str, Any]] = pages(service, "/currencies/?limit=50")
    listed = {row["code"]: row for row in rows}
    assert list(listed) == sorted(listed)
    expected = {c.code: c for c in iso4217.Currency if c.exponent is not None}
    assert len(expected) > 150
    for code, currency in expected.items():
        assert listed[code]["exponent"] == currency.exponent
        assert listed[code]["name"] == currency.currency_name
    assert "XAU" not in listed  # gold has no minor unit
    assert service.get("/currencies/KWD").json() == listed["KWD"]


AMOUNTS = [
    ("JPY", "100", "100"),
    ("JPY", "1.5", None),
    ("KWD", "1.234", "1.234"),
    ("KWD", "1.2345", None),
    ("BTC", "0.00000001", "0.00000001"),
    ("BTC", "1", "1.00000000"),
    ("BTC", "0.000000001", None),
    ("POINTS", "7", "7"),
]


@pytest.mark.parametrize(("currency", "amount", "balance"), AMOUNTS)
def test_amounts_have_their_currency_s_digits(
    service: RunningService, currency: str, amount: str, balance: str | None
) -> None:
    service.post("/currencies/", BITCOIN)
    service.post("/currencies/", {"code": "POINTS", "exponent": 0, "name": "Points"})
    account = service.open(currency=currency)
    body = {"account_id": account, "amount": amount, "idempotency_key": "d"}
    answer = service.post("/deposit/", body)
    if balance is None:
        assert answer.json()["code"] == "amount_precision"
    else:
        assert answer.json()["new_balance"] == balance
        other = service.open(currency="USD")
        transfer = {"from_account_id": account, "to_account_id": other, "amount": amount}
        refused = service.post("/transfer/", {**transfer, "idempotency_key": "t"})
        assert refused.json()["code"] == "currency_mismatch"


def test_a_currency_is_added_once_and_never_changes(service: RunningService) -> None:
    gems = {"code": "GEMS", "exponent": 1, "name": 'Gems "of" \\ Ümläut'}
    first = service.post("/currencies/", gems)
    assert (first.status_code, first.json()) == (201, gems)
    assert "idempotency-replayed" not in first.headers
    again = service.post("/currencies", gems)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    for change in ({"exponent": 2}, {"name": "Jewels"}):
        refused = service.post("/currencies/", gems | change)
        assert (refused.status_code, refused.json()["code"]) == (409, "currency_taken")
    assert service.get("/currencies/GEMS/").json() == gems
    taken = service.post("/currencies/", {"code": "JPY", "exponent": 2, "name": "Yen"})
    assert taken.json()["code"] == "currency_taken"


def test_who_asks_at_once_for_one_currency_gets_one(service: RunningService) -> None:
    names = [f"Name {n % 2}" for n in range(40)]
    bodies = [{"code": "RACE", "exponent": 0, "name": name} for name in names]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: service.post("/currencies/", body), bodies))
    kept = service.get("/currencies/RACE").json()
    for body, answer in zip(bodies, answers, strict=True):
        assert answer.status_code == (201 if body == kept else 409)
    first = [answer for answer in answers if "idempotency-replayed" not in answer.headers]
    assert sum(answer.status_code == 201 for answer in first) == 1


HOSTILE = [
    {"code": "btc"},
    {"code": ""},
    {"code": "A" * 17},
    {"code": "1AB"},
    {"code": "A\n"},
    {"code": 7},
    {"exponent": -1},
    {"exponent": 13},
    {"exponent": 1.0},
    {"exponent": "2"},
    {"exponent": True},
    {"exponent": None},
    {"name": ""},
    {"name": "n" * 256},
    {"name": "nul \0"},
    {"name": None},
    {"number": 5},
]


@pytest.mark.parametrize("change", HOSTILE, ids=str)
def test_hostile_currencies_are_refused(service: RunningService, change: dict) -> None:
    refused = service.post("/currencies/", {"code": "EVIL", "exponent": 2, "name": "E"} | change)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert service.get("/currencies/EVIL").json()["code"] == "currency_not_found"


@pytest.mark.parametrize("code", ["XXX", "usd", "%00", "A" * 99, "U%53D%20"])
def test_what_is_no_currency_is_not_found(service: RunningService, code: str) -> None:
    answer = service.get(f"/currencies/{code}")
    assert (answer.status_code, answer.json()["code"]) == (404, "currency_not_found")


def test_repeats_cost_no_numbers(new_database) -> None:
    """There are 31,768 of them, and a caller could send one currency as often."""

    async def test() -> None:
        poster = Poster(database.connect_writer, add_currencies, Limits(100, 1, 30))
        for _ in range(5):
            await poster.post(CurrencyRequest("A", 0, "A"))
        await poster.close()

    database = new_database()
    asyncio.run(test())
    with connect(database) as owner:
        numbers = "SELECT max(number), (SELECT last_value FROM ledger.currency_number)"
        assert owner.execute(f"{numbers} FROM ledger.currencies").fetchone() == (1000, 1000)
