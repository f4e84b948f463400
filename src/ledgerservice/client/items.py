"""The items that a call sends: the body of its route, with its type and key."""

import secrets
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, NotRequired, TypedDict

import msgspec

Amount = str | int | Decimal
"""An exact amount in major units. A float is refused."""


class Item(NamedTuple):
    """An instruction in JSON, and its key."""

    line: bytes
    key: str


class Details(TypedDict, total=False):
    """What every movement may carry."""

    description: str
    reference: str
    effective_at: datetime
    metadata: dict[str, Any]


class Leg(TypedDict):
    """A signed amount on an account, and conditions that the account must meet before it."""

    account_id: int
    amount: Amount
    currency: NotRequired[str]
    available_at_least: NotRequired[Amount]
    balance_at_least: NotRequired[Amount]
    version: NotRequired[int]


_AMOUNTS = {"amount", "available_at_least", "balance_at_least", "rate", "sold"}


def amount_text(amount: Amount) -> str:
    """An amount as the service takes it. Raises TypeError for a float: it is not exact."""
    if isinstance(amount, str):
        return amount
    if isinstance(amount, Decimal):
        return format(amount, "f")
    if isinstance(amount, int) and not isinstance(amount, bool):
        return str(amount)
    raise TypeError(f"an amount is a str, an int or a Decimal, not {type(amount).__name__}")


def new_key() -> str:
    """A key that no other call has."""
    return secrets.token_hex(16)


def item(kind: str, key: str | None, fields: Mapping[str, Any]) -> Item:
    """An item of a type. Fields that are None are left out. Without a `key` it gets a new one."""
    key = new_key() if key is None else key
    body = {"type": kind, **texts(fields), "idempotency_key": key}
    return Item(msgspec.json.encode(body), key)


def texts(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as the service takes them: amounts are text, and none is null."""
    return {
        name: amount_text(value) if name in _AMOUNTS else value
        for name, value in fields.items()
        if value is not None
    }
