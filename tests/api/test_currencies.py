"""Currencies: those of ISO 4217, units of one's own, and exponents that never change."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import iso4217
import psycopg
import pytest

from ledgerservice.domain.currencies import Currency, CurrencyRequest
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
    assert (first.status_code, first.json()) == (201, gems | {"own": False})
    assert "idempotency-replayed" not in first.headers
    again = service.post("/currencies", gems)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    for change in ({"exponent": 2}, {"name": "Jewels"}):
        refused = service.post("/currencies/", gems | change)
        assert (refused.status_code, refused.json()["code"]) == (409, "currency_taken")
    assert service.get("/currencies/GEMS/").json() == gems | {"own": False}
    taken = service.post("/currencies/", {"code": "JPY", "exponent": 2, "name": "Yen"})
    assert taken.json()["code"] == "currency_taken"


def test_who_asks_at_once_for_one_currency_gets_one(service: RunningService) -> None:
    names = [f"Name {n % 2}" for n in range(40)]
    bodies = [{"code": "RACE", "exponent": 0, "name": name} for name in names]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: service.post("/currencies/", body), bodies))
    kept = service.get("/currencies/RACE").json()
    for body, answer in zip(bodies, answers, strict=True):
        assert answer.status_code == (201 if body | {"own": False} == kept else 409)
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


@pytest.mark.parametrize("code", ["XXX", "usd", "A" * 99, "U%53D%20"])
def test_what_is_no_currency_is_not_found(service: RunningService, code: str) -> None:
    answer = service.get(f"/currencies/{code}")
    assert (answer.status_code, answer.json()["code"]) == (404, "currency_not_found")


def unit(code: str, exponent: int = 0, name: str = "Unit") -> dict[str, Any]:
    return {"code": code, "exponent": exponent, "name": name}


def test_ledgers_have_units_of_their_own(service: RunningService) -> None:
    """The same code with other decimals in two ledgers; a third ledger does not see it."""
    for name, exponent in (("units-a", 0), ("units-b", 2), ("units-c", None)):
        service.post("/ledgers/", {"name": name})
        base = f"/ledgers/{name}"
        if exponent is not None:
            added = service.post(f"{base}/currencies/", unit("OWN", exponent))
            assert (added.status_code, added.json()) == (201, unit("OWN", exponent) | {"own": True})
            again = service.post(f"{base}/currencies/", unit("OWN", exponent))
            assert (again.content, again.headers["idempotency-replayed"]) == (added.content, "true")
            assert service.post(f"{base}/currencies/", unit("OWN", 7)).status_code == 409
    shown = {
        base: [c["exponent"] for c in pages(service, f"{base}/currencies/") if c["code"] == "OWN"]
        for base in ("/ledgers/units-a", "/ledgers/units-b", "/ledgers/units-c", "")
    }
    assert shown == {
        "/ledgers/units-a": [0],
        "/ledgers/units-b": [2],
        "/ledgers/units-c": [],
        "": [],
    }
    assert service.get("/ledgers/units-c/currencies/OWN").status_code == 404
    opening = {"owner": "o", "currency": "OWN"}
    for base, code in (("/ledgers/units-c", 422), ("", 422), ("/ledgers/units-b", 201)):
        opened = service.post(f"{base}/accounts/", opening)
        assert opened.status_code == code, base
        assert code == 201 or opened.json()["code"] == "currency_unknown"
    body = {"account_id": opened.json()["id"], "amount": "1.25", "idempotency_key": "own"}
    assert service.post("/ledgers/units-b/deposit/", body).json()["new_balance"] == "1.25"
    found = service.get("/ledgers/units-b/accounts/?currency=OWN&min_balance=1.25").json()
    assert [one["balance"] for one in found] == ["1.25"]


def test_no_ledger_sees_two_currencies_of_one_code(service: RunningService) -> None:
    service.post("/ledgers/", {"name": "codes"})
    assert service.post("/ledgers/codes/currencies/", unit("KEPT")).status_code == 201
    taken = service.post("/currencies/", unit("KEPT"))
    assert (taken.status_code, taken.json()["code"]) == (409, "currency_taken")
    rehearsed = service.post("/currencies/?dry_run=true", unit("KEPT"))
    assert rehearsed.status_code == 409
    # What all ledgers have, a ledger may add too if it is the same.
    assert service.post("/currencies/", unit("SHARED")).status_code == 201
    for path in ("currencies/", "currencies/?dry_run=true"):
        same = service.post(f"/ledgers/codes/{path}", unit("SHARED"))
        assert (same.status_code, same.json()["own"]) == (201, False)
        assert service.post(f"/ledgers/codes/{path}", unit("SHARED", 3)).status_code == 409
        usd = service.post(f"/ledgers/codes/{path}", unit("USD", 3))
        assert usd.json()["code"] == "currency_taken"


def test_units_that_are_added_at_once(new_database) -> None:
    """Of a currency of all ledgers and one ledger's unit of its code, one is added."""

    async def test() -> None:
        posters = [
            Poster(database.connect_writer, add_currencies, Limits(100, 100, 30)) for _ in range(3)
        ]
        for n in range(30):
            requests = [CurrencyRequest(f"C{n}", 0, "C", ledger=ledger) for ledger in (None, 1, 1)]
            added = await asyncio.gather(
                *(one.post(request) for one, request in zip(posters, requests, strict=True))
            )
            got = {one.ledger for one in added if isinstance(one, Currency)}
            assert got in ({None}, {1})
        together = [CurrencyRequest("T", 0, "T", ledger=1), CurrencyRequest("T", 0, "T")]
        one, other = await asyncio.gather(*map(posters[0].post, together))
        assert isinstance(one, Currency) and isinstance(other, Currency)
        assert {one.ledger, other.ledger} == {None}
        for poster in posters:
            await poster.close()

    database = new_database()
    asyncio.run(test())
    with connect(database) as owner:
        assert owner.execute(TWICE).fetchall() == []
        with pytest.raises(psycopg.errors.SerializationFailure):
            owner.execute(
                "INSERT INTO ledger.currencies (code, exponent, name, ledger_id)"
                " VALUES ('EUR', 2, 'Euro', 1)"
            )


TWICE = """
SELECT a.code FROM ledger.currencies a JOIN ledger.currencies b USING (code)
WHERE a.ledger_id IS NULL AND b.ledger_id IS NOT NULL
"""


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
