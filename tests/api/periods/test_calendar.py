"""Days, months and years of time zones in queries, compared with the clocks of the zones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ledgerservice.postgres.connections import Database
from tests.databases import url_text
from tests.processes import RunningService, serving

numbers = count()


@dataclass
class Served:
    """A service, and the times and cents of the deposits on each account."""

    service: RunningService
    deposits: dict[int, list[tuple[datetime, int]]] = field(default_factory=dict)

    def get(self, path: str, **query: Any) -> Any:
        answer = self.service.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def served(new_database: Callable[..., Database]) -> Iterator[Served]:
    with serving(DATABASE_URL=url_text(new_database())) as running:
        yield Served(running)


# Zones whose clocks change at midnight or a minute after it, by 30 minutes or by a day; leap days,
# ends of years, and days that did not exist.
DAYS = {
    "UTC": ["2024-02-29", "1999-12-31", "2000-02-28", "2000-03-01"],
    "Europe/Berlin": ["2024-03-31", "2024-10-27", "2023-12-31", "1980-04-06"],
    "America/Sao_Paulo": ["2018-11-04", "2018-02-17", "2018-02-18"],
    "America/Havana": ["2024-03-10", "2024-11-03"],
    "America/St_Johns": ["2010-11-07", "2010-11-06", "2011-03-13"],
    "Australia/Lord_Howe": ["2024-04-07", "2024-10-06", "2024-12-31"],
    "Asia/Kathmandu": ["1985-12-31", "1986-01-01", "2024-02-29"],
    "Asia/Kolkata": ["1993-03-01", "1993-03-31"],
    "Pacific/Apia": ["2011-12-29", "2011-12-30", "2011-12-31"],
    "Pacific/Kiritimati": ["1994-12-30", "1994-12-31", "1995-01-01"],
}


@cache
def edge(text: str, zone: str, *, after: bool) -> datetime:
    """The first time at which the calendar in the zone shows `text` or later; or a later text."""

    def is_reached(time: datetime) -> bool:
        shown = time.astimezone(ZoneInfo(zone)).date().isoformat()[: len(text)]
        return shown > text if after else shown >= text

    time = datetime.fromisoformat(f"{text}-01-01"[:10]).replace(tzinfo=UTC) - timedelta(hours=30)
    while not is_reached(time):
        time += timedelta(hours=6)
    time -= timedelta(hours=30)
    while not is_reached(time):
        time += timedelta(minutes=1)
    return time


NUDGES = [timedelta(microseconds=n) for n in (-1, 0, 1, 1_800_000_000, -1_800_000_000)]
lengths = st.sampled_from([10, 10, 7, 4])  # of a day, a month and a year
periods = st.sampled_from(sorted(DAYS)).flatmap(
    lambda zone: st.tuples(
        st.just(zone),
        st.lists(st.tuples(st.sampled_from(DAYS[zone]), lengths), min_size=2, max_size=2),
        st.lists(
            st.tuples(st.sampled_from(DAYS[zone]), lengths, st.booleans(), st.sampled_from(NUDGES)),
            min_size=1,
            max_size=6,
        ),
    )
)


def deposited(served: Served, times: list[datetime], key: str) -> int:
    """A new account with a deposit of 1, 2, 4 … cents at each of the times."""
    account = served.service.open()
    served.deposits[account] = [(time, 2**n) for n, time in enumerate(times)]
    movements = [
        {"type": "DEPOSIT", "account_id": account, "amount": f"{cents / 100:.2f}",
         "effective_at": time.isoformat(), "metadata": {key: "x"}, "idempotency_key": f"{cents}"}
        for time, cents in served.deposits[account]
    ]  # fmt: skip
    service = served.service
    assert service.post("/batches", {"movements": movements}).status_code == 200
    return account


def cents(text: str) -> int:
    return int(text.replace(".", ""))


@pytest.mark.thorough
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@example(("Europe/Berlin", [("2024-03-31", 10)] * 2, [("2024-03-31", 10, True, NUDGES[0])]))
@example(("America/Sao_Paulo", [("2018-11-04", 10)] * 2, [("2018-11-04", 10, False, NUDGES[0])]))
@example(("Pacific/Apia", [("2011-12-30", 10)] * 2, [("2011-12-30", 10, False, NUDGES[1])]))
@example(("UTC", [("2024-02-29", 10)] * 2, [("2024-02-29", 10, True, NUDGES[0])]))
@example(("Asia/Kolkata", [("1993-03-01", 4)] * 2, [("1993-03-01", 4, True, NUDGES[0])]))
@given(periods)
def test_what_takes_effect_in_a_period_of_a_zone(served, period) -> None:
    """Statements, totals, lists and balances have what the clocks of the zone put into it."""
    zone, bounds, drawn = period
    first, last = sorted(day[:length] for day, length in bounds)
    since, until = edge(first, zone, after=False), edge(last, zone, after=True)
    if until < since:  # a day after its month
        since, first = edge(last, zone, after=False), last
    times = [edge(d[:length], zone, after=after) + nudge for d, length, after, nudge in drawn]
    key = f"k{next(numbers)}"
    account = deposited(served, times, key)
    own = served.deposits[account]
    inside = sum(n for time, n in own if since <= time < until)
    before = sum(n for time, n in own if time < since)

    query = {"from": first, "to": last, "timezone": zone, "by": "effective"}
    statement = served.get(f"/accounts/{account}/statement", **query)
    figures = [cents(statement[name]) for name in ("opening_balance", "closing_balance")]
    assert figures == [before, before + inside]
    assert sum(cents(entry["amount"]) for entry in statement["entries"]) == inside
    totals = served.get("/reports/totals", key=key, **query)
    assert sum(cents(row["amount"]) for row in totals) == inside
    listed = served.get("/transactions", account_id=account, **query)
    shown = [cents(row["amount"]) for row in listed]
    assert sorted(shown) == sorted(n for time, n in own if since <= time < until)
    check_balances(served, account, until, {"at": last, "timezone": zone})


def check_balances(served: Served, account: int, until: datetime, query: dict[str, str]) -> None:
    """Balances as of the end of a day, month or year have what takes effect before its end."""
    begun = {
        number: sum(n for time, n in deposits if time < until)
        for number, deposits in served.deposits.items()
        if any(time < until for time, _ in deposits)
    }
    balances = served.get(f"/accounts/{account}/balances", **query)
    assert cents(balances["effective"]["balance"]) == begun.get(account, 0)
    assert cents(balances["recorded"]["balance"]) == 0
    by_effect = query | {"by": "effective"}
    trial = served.get("/reports/trial-balance", **by_effect)
    assert trial["final"] is False
    figures = [
        (row["currency"], row["accounts"], cents(row["customers"]), cents(row["external"]))
        for row in trial["currencies"]
    ]
    total = sum(begun.values())
    assert figures == ([("USD", len(begun), total, -total)] if begun else [])
    owners = served.get("/reports/balances", **by_effect)
    assert [(row["accounts"], cents(row["balance"]), "held" in row) for row in owners] == (
        [(len(begun), total, False)] if begun else []
    )
    assert served.get("/reports/balances", **query) == []


YEAR = datetime.now(UTC).year
SAME = [
    ("/transactions/", {"from": "2020-11", "to": "2020-11"}),
    ("/transactions/", {"from": "2020-11-03", "to": f"{YEAR + 1}"}),
    ("/accounts/", {"from": "2020-11", "to": f"{YEAR + 1}"}),
    ("/accounts/", {"to": "2020-11-30"}),
    ("/accounts/{id}", {"as_of": f"{YEAR + 1}-02"}),
    ("/accounts/{id}", {"as_of": "2020-11-30"}),
    ("/accounts/{id}/balances", {"at": "2020-11"}),
    ("/accounts/{id}/statement", {"from": "2020-11", "to": f"{YEAR + 1}"}),
    ("/reports/trial-balance", {"at": f"{YEAR + 1}"}),
    ("/reports/balances", {"at": f"{YEAR + 1}-02"}),
    ("/reports/totals", {"key": "same", "from": "2020-11", "to": f"{YEAR + 1}"}),
]


@pytest.mark.parametrize(("path", "query"), SAME)
@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/St_Johns", None])
def test_every_time_of_a_query_can_be_of_a_calendar(served, path, query, zone) -> None:
    """The answer is that to the timestamps of the edges."""
    account = deposited(served, [datetime(2020, 11, 3, tzinfo=UTC)], "same")
    path = path.replace("{id}", str(account))
    times = {}
    for name, text in query.items():
        if name == "key":
            times[name] = text
            continue
        time = edge(text, zone or "UTC", after=name != "from")
        if name in ("at", "as_of"):
            time -= timedelta(microseconds=1)
        times[name] = time.isoformat()
    asked = query | ({"timezone": zone} if zone else {})
    assert served.get(path, **asked) == served.get(path, **times)


VALID = "must be a timestamp with time zone, such as 2026-12-31T23:59:59Z"
OR_A_DAY = "or a day, month or year, such as 2026-11"
REFUSED = [
    ("/transactions/", {"from": "yesterday"}, "from", OR_A_DAY),
    ("/transactions/", {"to": "2026-11-31"}, "to", "must be a date of the calendar"),
    ("/transactions/", {"from": "2026-11-30T00:00:00"}, "from", "no time zone"),
    ("/transactions/", {"from": "2026-12", "to": "2026-10"}, "to", "must not be before from"),
    ("/transactions/", {"timezone": "Mars"}, "timezone", "must be an IANA time zone"),
    ("/transactions/", {"by": "booked"}, "by", "'recorded' or 'effective'"),
    ("/accounts/", {"from": "2026-13"}, "from", "must be a date of the calendar"),
    ("/accounts/", {"by": "effective"}, "by", "the name is not known; also accepted: "),
    ("/accounts/1", {"as_of": "2026-02-29"}, "as_of", "must be a date of the calendar"),
    ("/accounts/1", {"as_of": "now"}, "as_of", OR_A_DAY),
    ("/accounts/1/balances", {"at": "11/2026"}, "at", OR_A_DAY),
    ("/reports/trial-balance", {"by": "effective"}, "by", "effective needs at"),
    ("/reports/balances", {"by": "effective"}, "by", "effective needs at"),
    ("/reports/volume", {"from": "2026-12", "to": "2026-10"}, "to", "must not be before from"),
    ("/reports/volume", {"by": "week"}, "by", "'month', 'day', 'hour' or 'minute'"),
    ("/reports/totals", {"key": "x", "by": "both"}, "by", "'recorded' or 'effective'"),
]


@pytest.mark.parametrize(("path", "query", "name", "message"), REFUSED)
def test_what_is_not_a_time_is_refused_with_what_is(served, path, query, name, message) -> None:
    answer = served.service.client.get(path, params=query)
    assert answer.status_code == 422
    [fault] = answer.json()["errors"]
    assert fault["field"] == name
    assert message in fault["message"]


@pytest.mark.parametrize("name", ["effective_at", "expires_at"])
def test_a_plain_day_is_no_time_of_a_body(served, name) -> None:
    """It has no zone, so a transaction could take effect on another day than was meant."""
    path = "/deposit/" if name == "effective_at" else "/holds/"
    body = {"account_id": 1, "amount": "1", "idempotency_key": "day", name: "2026-11-30"}
    answer = served.service.post(path, body)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"field": name, "message": VALID}]


def test_a_year_that_has_no_end_is_refused(served) -> None:
    answer = served.service.client.get("/reports/trial-balance", params={"at": "9999"})
    assert answer.status_code == 422
