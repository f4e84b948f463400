"""The report of what was recorded by periods, compared with the list of transactions."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from itertools import count
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from ledgerservice.api.http.calendar import period_begin
from ledgerservice.domain.timestamps import parse_timestamp, timestamp
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.queries import volume as queries
from tests.databases import connect, url_text, without_guards
from tests.processes import RunningService, serving

numbers = count()
FAR = "2099-01-01T00:00:00Z"
AMOUNTS = ["0.01", "0.99", "1", "1.99", "2", "4.99", "5", "9.99", "10", "100", "12345.67"]


def fill(service: RunningService) -> None:
    """Something of every kind, in two currencies and of one account twice."""
    alice, bob = service.open(balance="100000"), service.open("Bob")
    euros = service.open("Eve", "EUR", balance="70")
    for amount in AMOUNTS:
        service.send("/transfer", from_account_id=alice, to_account_id=bob, amount=amount)
    paid = service.send("/withdraw", account_id=alice, amount="7").json()["transaction_id"]
    service.send(f"/transactions/{paid}/reverse", amount="2")
    service.send("/withdraw", account_id=bob, amount="999999")
    for day in ("2020-01-31", "2020-02-01", "2026-10-24", "2026-10-26"):
        service.send("/deposit", account_id=bob, amount="4", effective_at=f"{day}T23:30:00Z")
    service.send("/withdraw", account_id=euros, amount="71")
    legs = [(alice, "-8"), (bob, "3"), (bob, "5"), (bob, "-1"), (alice, "1")]
    service.send("/transactions", legs=[{"account_id": a, "amount": m} for a, m in legs])
    marks = service.open("Mallory", "EUR")
    of_both = [(alice, "-8"), (bob, "8"), (euros, "-6"), (marks, "6")]
    service.send("/transactions", legs=[{"account_id": a, "amount": m} for a, m in of_both])
    hold = service.send("/holds", account_id=alice, amount="20", expires_at=FAR, to_account_id=bob)
    service.send(f"/holds/{hold.json()['hold_id']}/capture", amount="5")
    later = {"from_account_id": alice, "to_account_id": bob, "amount": "1", "execute_at": FAR}
    service.send("/transfer", **later)
    service.send(f"/accounts/{bob}", "PATCH", frozen="debits")
    service.send("/withdraw", account_id=bob, amount="1")


def spread(database: Database) -> None:
    """Move what was recorded into different minutes, hours and days, some of them the same."""
    with connect(database) as owner, without_guards(owner):
        owner.execute(
            "UPDATE ledger.transactions SET recorded_at = timestamptz '2026-10-24 21:30Z'"
            " + id % 7 * interval '11 minutes' + id % 5 * interval '9 hours'"
        )


@pytest.fixture(scope="module")
def service(new_database: Callable[..., Database]) -> Iterator[RunningService]:
    database = new_database()
    with serving(DATABASE_URL=url_text(database)) as running:
        fill(running)
        spread(database)
        yield running


def read(service: RunningService, **query: Any) -> Any:
    answer = service.client.get("/reports/volume", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def listed(service: RunningService, **query: Any) -> list[Any]:
    """The transactions of a time, with their entries."""
    rows = service.client.get("/transactions", params={"limit": 1000, **query}).json()
    return [whole(service.client, row["transaction_id"]) for row in rows]


@cache
def whole(client: httpx.Client, number: int) -> Any:
    return client.get(f"/transactions/{number}").json()


def begin_of(row: Any, unit: str, zone: str, by: str | None = None) -> str:
    """The beginning of a transaction's period, by the digits that a clock of the zone shows."""
    kept = {"month": 7, "day": 10, "hour": 13, "minute": 16}[unit]
    time = row.get("effective_at") if by == "effective" else None
    local = parse_timestamp(time or row["recorded_at"]).astimezone(ZoneInfo(zone))
    text = local.isoformat()[:kept]
    whole = text + "1970-01-01T00:00:00"[kept:]
    begin = datetime.fromisoformat(whole).replace(tzinfo=local.tzinfo, fold=local.fold)
    return timestamp(begin.astimezone(UTC))


def nets(row: Any) -> Counter[tuple[str, int]]:
    sums: Counter[tuple[str, int]] = Counter()
    for entry in row.get("entries", []):
        sums[entry["currency"], entry["account_id"]] += Decimal(entry["amount"])  # type: ignore[assignment]
    return sums


def moved_by(row: Any) -> dict[str, tuple[Decimal, Decimal, Decimal]]:
    """By currency: what came in, what went out, and what was moved."""
    found: dict[str, Any] = {}
    for (currency, account), amount in nets(row).items():
        figures = found.setdefault(currency, [Decimal(0)] * 3)
        figures[0] += -amount if account < 0 and amount < 0 else 0
        figures[1] += amount if account < 0 and amount > 0 else 0
        figures[2] += max(amount, 0)
    return {currency: tuple(one) for currency, one in found.items() if one[2]}


def expected(
    rows: list[Any], unit: str, zone: str, currency: str | None, by: str | None = None
) -> list[Any]:
    periods: dict[str, Any] = {}
    for row in rows:
        begin = begin_of(row, unit, zone, by)
        one = periods.setdefault(begin, {"posted": 0, "declined": Counter(), "sums": {}})
        if row["status"] == "declined":
            one["declined"][row["code"]] += 1
            continue
        one["posted"] += 1
        for code, figures in moved_by(row).items():
            if currency in (None, code):
                old = one["sums"].get(code, (0, 0, 0, 0))
                new = map(sum, zip(old, (1, *figures), strict=True))
                one["sums"][code] = tuple(new)
    return [(begin, periods[begin]) for begin in sorted(periods)]


def shown(volume: Any) -> list[Any]:
    return [
        (
            one["begins_at"],
            {
                "posted": one["posted"],
                "declined": one["declined"],
                "sums": {
                    row["currency"]: (
                        row["transactions"],
                        *(Decimal(row[name]) for name in ("amount_in", "amount_out", "moved")),
                    )
                    for row in one["currencies"]
                },
            },
        )
        for one in volume["periods"]
    ]


ZONES = ["UTC", "Asia/Kolkata", "Europe/Berlin", "Australia/Lord_Howe"]
TIMES: list[dict[str, str]] = [
    {}, {"from": "2026-10-25"}, {"to": "2026-10-25"},
    {"from": "2026-10-25T03:00:00Z", "to": "2026-10-26"},
]  # fmt: skip


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("unit", ["month", "day", "hour", "minute"])
@pytest.mark.parametrize("zone", ZONES)
def test_it_has_what_the_list_has(
    service: RunningService, zone: str, unit: str, times: dict[str, str]
) -> None:
    """In the autumn in which Berlin's clocks go back, too."""
    check(service, unit, zone, times)


EFFECTIVE: list[tuple[str, dict[str, str]]] = [
    ("month", {}),
    ("month", {"from": "2020-02", "to": "2026-10-24"}),
    ("minute", {"from": "2026-10-24T22:30:00Z", "to": "2026-10-25"}),
    ("hour", {"from": "2026-10"}),
]  # fmt: skip


@pytest.mark.parametrize(("unit", "times"), EFFECTIVE)
def test_as_effective_it_has_what_the_list_has(
    service: RunningService, unit: str, times: dict[str, str]
) -> None:
    check(service, unit, "Europe/Berlin", times, {"basis": "effective"}, {"by": "effective"})


def check(
    service: RunningService,
    unit: str,
    zone: str,
    times: dict[str, str],
    basis: Any = MappingProxyType({}),
    by: Any = MappingProxyType({}),
) -> None:
    volume = read(service, by=unit, timezone=zone, **times, **basis)
    rows = listed(service, timezone=zone, **times, **by)
    assert len(rows) > 1 and volume["transactions"] == len(rows)
    assert (volume["complete"], volume["since"]) == (True, None)
    assert shown(volume) == expected(rows, unit, zone, None, by.get("by"))


@pytest.mark.parametrize("currency", ["USD", "EUR", "INR"])
def test_of_a_currency(service: RunningService, currency: str) -> None:
    volume = read(service, currency=currency)
    rows = listed(service, currency=currency)
    assert volume["transactions"] == len(rows)
    assert shown(volume) == expected(rows, "day", "UTC", currency)
    assert {one["currency"] for one in volume["amounts"]} == ({currency} if rows else set())


def range_of(amount: Decimal) -> Decimal:
    """The range of an amount, counted up."""
    begin, steps = Decimal("0.01"), [Decimal(2), Decimal("2.5"), Decimal(2)]
    for number in count():
        following = begin * steps[number % 3]
        if amount < following:
            return begin
        begin = following
    raise AssertionError


def test_the_ranges_of_amounts(service: RunningService) -> None:
    rows = [moved_by(row) for row in listed(service, status="posted")]
    counted = Counter((code, range_of(figures[2])) for one in rows for code, figures in one.items())
    answered = read(service)["amounts"]
    assert {
        (one["currency"], Decimal(one["at_least"])): one["transactions"] for one in answered
    } == counted
    order = [(one["currency"], Decimal(one["at_least"])) for one in answered]
    assert order == sorted(order) and len(order) > 8


def test_it_reads_the_newest_and_says_from_when_on(service: RunningService) -> None:
    rows = listed(service)
    for limit in range(1, len(rows) + 1):
        volume = read(service, limit=limit, by="minute")
        assert volume["complete"] is (limit == len(rows)), limit
        since = volume["since"]
        counted = rows if since is None else [r for r in rows if r["recorded_at"] >= since]
        assert volume["transactions"] == len(counted) <= limit
        assert shown(volume) == expected(counted, "minute", "UTC", None)


def test_as_effective_it_says_from_when_on(service: RunningService) -> None:
    rows = listed(service, by="effective")
    for limit in range(1, len(rows) + 1):
        volume = read(service, limit=limit, by="month", basis="effective")
        since = volume["since"] or "0"
        counted = [r for r in rows if (r.get("effective_at") or r["recorded_at"]) >= since]
        assert volume["transactions"] == len(counted)
        assert shown(volume) == expected(counted, "month", "UTC", None, "effective")
    assert volume["complete"]


def test_a_ledger_without_transactions(service: RunningService) -> None:
    assert read(service, **{"from": "2099"}) == {
        "complete": True, "since": None, "transactions": 0, "periods": [], "amounts": [],
    }  # fmt: skip


@pytest.mark.parametrize("zone", [*ZONES, "America/Havana", "America/Sao_Paulo", "Pacific/Apia"])
@pytest.mark.parametrize("unit", ["month", "day", "hour", "minute"])
def test_periods_follow_each_other(unit: Any, zone: str) -> None:
    """Each time is in the period that begins last before it, also where clocks change."""
    for begin in ("2011-12-29", "2018-11-03", "2024-03-09", "2024-04-06", "2024-11-02"):
        time = datetime.fromisoformat(begin).replace(tzinfo=UTC)
        known = period_begin(time, unit, zone)
        for _ in range(60 * 24 if unit == "minute" else 72):
            time += timedelta(minutes=7 if unit == "minute" else 30)
            found = period_begin(time, unit, zone)
            assert known <= found <= time
            assert period_begin(found, unit, zone) == found
            known = found


def test_the_latest_periods_of_many(monkeypatch: Any) -> None:
    monkeypatch.setattr(queries, "MAX_PERIODS", 5)
    first, last = (datetime(2026, 1, day, 1, tzinfo=UTC) for day in (1, 30))
    begins = queries._begins(first, last, lambda t: period_begin(t, "day", "UTC"))
    assert [one.day for one in begins] == [26, 27, 28, 29, 30]
