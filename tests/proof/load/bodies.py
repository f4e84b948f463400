"""What is sent: the route and the JSON of a request of the load."""

from typing import Any

import msgspec

from tests.proof.history import STEPS, Exchange, Request
from tests.proof.judging.evidence import major

TYPES = {
    "deposit": "DEPOSIT", "withdraw": "WITHDRAW", "transfer": "TRANSFER", "crossing": "TRANSFER",
    "general": "TRANSACTION", "hold": "HOLD", "capture": "CAPTURE", "release": "RELEASE",
    "reversal": "REVERSAL", "schedule": "TRANSFER", "cancellation": "CANCELLATION",
    "policy": "POLICY",
}  # fmt: skip


def route_of(request: Request) -> tuple[str, str]:
    """Method and path of a request of its own."""
    if request.kind == "policy":
        return "PATCH", f"/accounts/{request.account}"
    path = {
        "general": "/transactions/",
        "hold": "/holds/",
        "capture": f"/holds/{request.parent}/capture",
        "release": f"/holds/{request.parent}/release",
        "reversal": f"/transactions/{request.parent}/reverse",
        "schedule": "/transfer/",
        "crossing": "/transfer/",
        "cancellation": f"/schedules/{request.parent}/cancel",
    }.get(request.kind, f"/{request.kind}/")
    return "POST", path


def body_of(request: Request, *, item: bool = False) -> dict[str, object]:
    """The JSON of a movement; an item of a batch has what else stands in the path."""
    body: dict[str, object] = {"idempotency_key": request.key}
    if request.legs:
        body["legs"] = _legs(request)
        if request.exchange is not None:
            body["exchange"] = _exchange(request.exchange)
    elif request.amount:
        body["amount"] = major(request.amount)
    if request.kind in STEPS:
        if item:
            body[_PARENTS.get(request.kind, "hold_id")] = request.parent
    elif request.kind == "policy":
        body["floor"] = major(request.floor)
        body["ceiling"] = None if request.ceiling is None else major(request.ceiling)
        body["frozen"] = request.frozen or None
        if request.closed:
            body["closed"] = True
        if item:
            body["account_id"] = request.account
    elif request.kind in ("transfer", "crossing", "schedule"):
        body["from_account_id"] = request.account
    elif request.kind != "general":
        body["account_id"] = request.account
    if request.other is not None:
        body["to_account_id"] = request.other
    if request.metadata:
        body["metadata"] = msgspec.Raw(request.metadata.encode())
    for name in (
        "final",
        "force",
        *DETAIL,
        "expires_at",
        "capture_at",
        "execute_at",
        "actor",
        "reason",
    ):
        if value := getattr(request, name):
            body[name] = value
    return body


def _exchange(exchange: Exchange) -> dict[str, object]:
    body: dict[str, object] = {"sell": exchange.sell, "buy": exchange.buy, "rate": exchange.rate}
    if exchange.rounding is not None:
        body["rounding_account_id"] = exchange.rounding
    if exchange.sold:
        body["sold"] = exchange.sold
    return body


def _legs(request: Request) -> list[dict[str, object]]:
    """The legs; the first of an account demands what is demanded of it."""
    demanded: dict[int, dict[str, object]] = {}
    for account, name, value in request.conditions:
        given = value if name == "version" else major(value)
        demanded.setdefault(account, {})[name] = given
    return [
        {"account_id": account, "amount": major(amount), **demanded.pop(account, {})}
        for account, amount in request.legs
    ]


_PARENTS = {"reversal": "transaction_id", "cancellation": "schedule_id"}


def encoded(body: object) -> dict[str, Any]:
    """What is sent, to the letter: metadata keeps its digits."""
    return {"content": msgspec.json.encode(body), "headers": {"Content-Type": "application/json"}}


DETAIL = ("description", "reference", "effective_at")


def item_of(request: Request) -> dict[str, object]:
    """The JSON of a movement as an item of a batch."""
    return {"type": TYPES[request.kind], **body_of(request, item=True)}
