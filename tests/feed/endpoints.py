"""What tests of webhooks share: a ledger on a service, endpoints in it, and payments."""

from typing import Any

import httpx

from tests.feed.receiver import Receiver
from tests.processes import RunningService, wait_for

QUICK = {
    "LEDGER_WEBHOOKS_PRIVATE": "true",
    "LEDGER_WEBHOOKS_FIRST_RETRY_S": "0.05",
    "LEDGER_WEBHOOKS_TIMEOUT_S": "2",
}


class Book:
    """A ledger of its own, on a service that other tests use too."""

    def __init__(self, service: RunningService, name: str | None = None) -> None:
        self.prefix = "" if name is None else f"/ledgers/{name}"
        self.service = service
        if name is not None:
            service.post("/ledgers/", {"name": name})

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.service.post(self.prefix + path, body)

    def get(self, path: str) -> httpx.Response:
        return self.service.get(self.prefix + path)

    def patch(self, path: str, **body: Any) -> httpx.Response:
        return self.service.client.patch(self.prefix + path, json=body)

    def open(self) -> int:
        account: int = self.post("/accounts/", {"owner": "o", "currency": "USD"}).json()["id"]
        return account


def add(service: Book, receiver: Receiver, **more: Any) -> dict[str, Any]:
    answer = service.post("/webhooks", {"url": receiver.url, **more})
    assert answer.status_code == 201, answer.text
    added: dict[str, Any] = answer.json()
    return added


def pay(service: Book, account: int, times: int, name: str = "p") -> list[str]:
    """Deposits; their events' ids."""
    ids = []
    for number in range(times):
        body = {"account_id": account, "amount": "1", "idempotency_key": f"{name}{number}"}
        ids.append(f"1-{service.post('/deposit/', body).json()['transaction_id']}")
    return ids


def delivered(receiver: Receiver, ids: list[str], limit_s: float = 20) -> bool:
    return wait_for(lambda: set(ids) <= set(receiver.events()), limit_s)
