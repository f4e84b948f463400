"""The report of what is open is the sum of the accounts' lists of holds and schedules."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from ledgerservice.api.resources import reports
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.queries.structs import OpenSum
from tests.databases import url_text
from tests.processes import RunningService, serving

FAR = "2099-01-01T00:00:00.000000Z"
FARTHER = "2099-02-01T00:00:00.000000Z"


def summed(service: RunningService, name: str, accounts: list[int], time: str) -> dict[str, Any]:
    """By currency: how many, of how much, and the first time."""
    rows = [row for one in accounts for row in service.get(f"/accounts/{one}/{name}").json()]
    sums: dict[str, Any] = {}
    for row in rows:
        number, amount, first = sums.get(row["currency"], (0, Decimal(0), None))
        left = Decimal(row.get("remaining", row["amount"]))
        first = min([one for one in (first, row[time]) if one is not None], default=None)
        sums[row["currency"]] = number + 1, amount + left, first
    return sums


def test_what_is_open_is_what_the_accounts_have(new_database: Callable[..., Database]) -> None:
    with serving(DATABASE_URL=url_text(new_database())) as service:
        a, b = service.open(balance="100"), service.open(balance="50")
        c = service.open(currency="EUR", balance="10")
        assert service.get("/reports/open").json() == {
            name: {"complete": True, "currencies": []} for name in ("holds", "schedules")
        }
        first = service.send("/holds/", account_id=a, amount="30", expires_at=FARTHER).json()
        service.send(f"/holds/{first['hold_id']}/capture", amount="10")
        service.send("/holds/", account_id=b, amount="5", expires_at=FAR)
        service.send("/holds/", account_id=c, amount="1.25")
        done = service.send("/holds/", account_id=b, amount="7").json()
        service.send(f"/holds/{done['hold_id']}/release")
        accounts = {"from_account_id": a, "to_account_id": b}
        service.send("/transfer/", **accounts, amount="2", execute_at=FARTHER)
        service.send("/transfer/", **accounts, amount="3", execute_at=FAR)
        answer = service.get("/reports/open").json()
        for kind, time in (("holds", "expires_at"), ("schedules", "execute_at")):
            rows = {
                row["currency"]: (row["number"], Decimal(row["amount"]), row["next_at"])
                for row in answer[kind]["currencies"]
            }
            assert rows == summed(service, kind, [a, b, c], time)
        held = {row["currency"]: row["amount"] for row in answer["holds"]["currencies"]}
        assert held == {"EUR": "1.25", "USD": "25.00"}


def test_more_than_the_limit_are_not_complete() -> None:
    row = OpenSum("USD", 2, reports.MOST_OPEN, 5, None)
    assert reports._open_kind([[row]]).complete
    more = OpenSum("USD", 2, reports.MOST_OPEN + 1, 5, None)
    assert not reports._open_kind([[row], [more]]).complete
