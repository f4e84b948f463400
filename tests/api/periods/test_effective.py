"""Statements as effective, over HTTP."""

import csv
import io
from collections.abc import Callable, Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from ledgerservice.postgres.connections import Database
from tests.databases import url_text
from tests.processes import RunningService, serving


@pytest.fixture(scope="module")
def served(new_database: Callable[..., Database]) -> Iterator[RunningService]:
    with serving(DATABASE_URL=url_text(new_database())) as running:
        yield running


def test_a_statement_of_1993_has_what_took_effect_then(served) -> None:
    """In every format, and in pages; the same period as recorded is empty."""
    a = served.open(balance="5")
    for day in (20, 1, 31):
        body = {"account_id": a, "amount": f"{day}", "idempotency_key": f"march {day}"}
        answer = served.client.post(
            "/deposit/", json=body | {"effective_at": f"1993-03-{day:02}T12:00:00Z"}
        )
        assert answer.status_code == 200, answer.text
    path = f"/accounts/{a}/statement"
    period = {"from": "1993-03-02T00:00:00Z", "to": "1993-04-01T00:00:00Z"}
    assert served.client.get(path, params=period).json()["entries"] == []
    period["by"] = "effective"
    answer = served.client.get(path, params=period | {"limit": 1})
    pages = [answer.json(), served.get(answer.links["next"]["url"]).json()]
    assert [[(e["amount"], e["balance"]) for e in page["entries"]] for page in pages] == [
        [("20.00", "21.00")],
        [("31.00", "52.00")],
    ]
    for page in pages:
        figures = page["opening_balance"], page["closing_balance"], page["entries_total"]
        assert (figures, page["final"]) == (("1.00", "52.00", 2), False)
    text = served.client.get(path, params=period | {"format": "csv"}).text
    balances = [row["balance"] for row in csv.DictReader(io.StringIO(text))]
    assert balances == ["1.00", "21.00", "52.00", "52.00"]
    page = served.client.get(path, params=period | {"format": "html"}).text
    assert "<td>1993-03-20 12:00:00</td>" in page
    whole = served.client.get(path, params={"by": "effective"}).json()
    assert [e["amount"] for e in whole["entries"]] == ["1.00", "20.00", "31.00", "5.00"]
    assert whole["closing_balance"] == "57.00"
    assert served.client.get(path, params={"by": "booked"}).status_code == 422


IN_ZONES = [
    ("Asia/Kolkata", "1993-03-20T17:30:00.000000+05:30", "1993-03-20 17:30:00 +05:30"),
    ("America/St_Johns", "1993-03-20T08:30:00.000000-03:30", "1993-03-20 08:30:00 -03:30"),
    ("UTC", "1993-03-20T12:00:00.000000Z", "1993-03-20 12:00:00"),
    # Its offset was 19 minutes and 32 seconds then, which RFC 3339 cannot write.
    ("Europe/Amsterdam", "1930-03-20T12:00:00.000000Z", "1930-03-20 12:00:00 Z"),
]


@pytest.mark.parametrize(("zone", "in_csv", "in_html"), IN_ZONES)
def test_a_statement_has_its_times_in_the_zone(served, zone, in_csv, in_html) -> None:
    account = served.open()
    body = {"account_id": account, "amount": "1", "idempotency_key": "k"}
    taken = served.post("/deposit/", body | {"effective_at": f"{in_csv[:4]}-03-20T12:00:00Z"})
    path, query = f"/accounts/{account}/statement", {"timezone": zone, "by": "effective"}
    text = served.client.get(path, params=query | {"format": "csv"}).text
    row = list(csv.DictReader(io.StringIO(text)))[1]
    assert row["effective_at"] == in_csv
    recorded_at = datetime.fromisoformat(taken.json()["recorded_at"])
    assert datetime.fromisoformat(row["recorded_at"]) == recorded_at
    assert recorded_at.astimezone(ZoneInfo(zone)).isoformat()[:19] == row["recorded_at"][:19]
    page = served.client.get(path, params=query | {"format": "html"}).text
    assert f"<td>{in_html}</td>" in page
    assert f"Times are {'UTC' if zone == 'UTC' else f'of {zone}'}." in page


def test_a_period_for_print_is_in_the_zone(served) -> None:
    query = {"from": "2026-11", "to": "2026-11", "timezone": "Asia/Kolkata", "format": "html"}
    page = served.client.get(f"/accounts/{served.open()}/statement", params=query).text
    begin, finish = "2026-11-01 00:00:00.000000+05:30", "2026-12-01 00:00:00.000000+05:30"
    assert f"<dd>{begin} to {finish}</dd>" in page


@pytest.mark.parametrize(
    ("first", "last", "zone", "since", "until"),
    [
        ("2026-11", "2026-11", "Asia/Kolkata", "2026-10-31T18:30", "2026-11-30T18:30"),
        ("2026", "2026", None, "2026-01-01T00:00", "2027-01-01T00:00"),
        ("2024-02", "2024-02-29", "UTC", "2024-02-01T00:00", "2024-03-01T00:00"),
        ("2026-12", "2026-12", "UTC", "2026-12-01T00:00", "2027-01-01T00:00"),
        # Days of 23 and 25 hours, and one that begins at 01:00.
        ("2026-03-29", "2026-03-29", "Europe/Berlin", "2026-03-28T23:00", "2026-03-29T22:00"),
        ("2026-10-25", "2026-10-25", "Europe/Berlin", "2026-10-24T22:00", "2026-10-25T23:00"),
        ("2018-11-04", "2018-11-04", "America/Sao_Paulo", "2018-11-04T03:00", "2018-11-05T02:00"),
    ],
)
def test_a_period_of_the_calendar(served, first, last, zone, since, until) -> None:
    """From the beginning of the first day, month or year to the end of the last, in the zone."""
    query = {"from": first, "to": last} | ({"timezone": zone} if zone else {})
    account = served.open(balance="1")
    head = served.client.get(f"/accounts/{account}/statement", params=query).json()
    assert (head["from"], head["to"]) == (f"{since}:00.000000Z", f"{until}:00.000000Z")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timezone", "Mars/Olympus"),
        ("timezone", "../etc/passwd"),
        ("timezone", ""),
        ("timezone", "Europe"),
        ("from", "2026-13"),
        ("from", "2026-02-29"),
        ("to", "9999"),
        ("from", "0000"),
        ("from", "26-11"),
    ],
)
def test_what_is_not_of_the_calendar_is_refused(served, name, value) -> None:
    answer = served.client.get("/accounts/1/statement", params={name: value})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
