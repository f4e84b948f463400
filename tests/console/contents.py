"""A small ledger with every kind of transaction, made over HTTP."""

from dataclasses import dataclass, field
from typing import Any

from tests.processes import RunningService

CANARY = """<img src=x onerror="document.title='run'">'"`{{7*7}}</script>"""
"""A text that does something if a page does not escape it."""


@dataclass
class Contents:
    """The ids of what a ledger has, by names."""

    accounts: dict[str, int] = field(default_factory=dict)
    transactions: dict[str, int] = field(default_factory=dict)


def fill(service: RunningService) -> Contents:
    """Accounts in two currencies, and a transaction of each kind, declined ones included."""
    contents = Contents()
    for owner, currency in (("Alice", "USD"), ("Bob", "USD"), ("Fees", "USD"), ("Erik", "EUR")):
        contents.accounts[owner] = service.open(owner, currency, "1000.00")
    contents.accounts["canary"] = _canary(service)
    contents.transactions = _movements(service, contents.accounts)
    return contents


def _canary(service: RunningService) -> int:
    body = {"owner": CANARY, "currency": "USD", "reference": CANARY, "metadata": {"note": CANARY}}
    account: int = service.post("/accounts/", body).json()["id"]
    texts = {"description": CANARY, "reference": CANARY, "metadata": {"note": CANARY}}
    service.send("/deposit/", account_id=account, amount="7.00", **texts)
    return account


def _movements(service: RunningService, accounts: dict[str, int]) -> dict[str, int]:
    alice, bob, fees, erik = (accounts[name] for name in ("Alice", "Bob", "Fees", "Erik"))
    pair = {"from_account_id": alice, "to_account_id": bob}
    metadata = {"order": "o-1", "channel": "web"}

    def moved(path: str, **body: Any) -> int:
        number: int = service.send(path, **body).json()["transaction_id"]
        return number

    hold = moved("/holds/", account_id=alice, to_account_id=bob, amount="25.00")
    transfer = moved("/transfer/", **pair, amount="40.00", reference="inv-1", metadata=metadata)
    legs = [{"account_id": n, "amount": a} for n, a in ((alice, "-9"), (bob, "8"), (fees, "1"))]
    return {
        "hold": hold,
        "capture": moved(f"/holds/{hold}/capture", amount="10.00"),
        "open hold": moved("/holds/", account_id=alice, amount="15.00"),
        "transfer": transfer,
        "reversal": moved(f"/transactions/{transfer}/reverse", amount="12.00"),
        "sale": moved("/transactions/", legs=legs, description="A sale with a fee"),
        "schedule": moved("/transfer/", **pair, amount="5", execute_at="2099-01-01T00:00:00Z"),
        "backdated": moved(
            "/deposit/", account_id=bob, amount="30.00", effective_at="2026-01-15T12:00:00Z"
        ),
        "withdrawal": moved("/withdraw/", account_id=erik, amount="100.00"),
        "decline": moved("/withdraw/", account_id=bob, amount="99999.00"),
    }
