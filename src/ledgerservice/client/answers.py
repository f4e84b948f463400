"""The answers of the service as values: amounts are Decimal, times are datetime.

A test compares the members with those of the published description. A member that a newer service
adds is ignored.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import msgspec

Metadata = dict[str, Any] | None


class Entry(msgspec.Struct, gc=False):
    """The part of one account in a transaction. The account after it is None for an account that
    the key of the API does not cover.
    """

    account_id: int
    currency: str
    amount: Decimal
    balance: Decimal | None = None
    held_change: Decimal | None = None
    held: Decimal | None = None
    version: int | None = None


class Posted(msgspec.Struct, kw_only=True):
    """A posted transaction. Members that its kind does not have are None."""

    transaction_id: int
    transaction_type: str
    amount: Decimal
    currency: str
    recorded_at: datetime
    entries: list[Entry]
    status: str = "posted"
    new_balance: Decimal | None = None
    sender_new_balance: Decimal | None = None
    hold_id: int | None = None
    reverses: int | None = None
    schedule_id: int | None = None
    counterparty_id: int | None = None
    debited_by: int | None = None
    credited_by: int | None = None
    remaining: Decimal | None = None
    expires_at: datetime | None = None
    capture_at: datetime | None = None
    execute_at: datetime | None = None
    exchange: Metadata = None
    floor: Decimal | None = None
    ceiling: Decimal | None = None
    frozen: str | None = None
    closed: bool | None = None
    actor: str | None = None
    reason: str | None = None
    description: str | None = None
    reference: str | None = None
    effective_at: datetime | None = None
    metadata: Metadata = None


class DecidedOn(msgspec.Struct, kw_only=True, frozen=True):
    """The state of the account on which a decline was decided."""

    account_id: int
    currency: str
    available: Decimal
    balance: Decimal
    version: int


class Transaction(Posted, kw_only=True):
    """A recorded transaction: posted, or declined with `code` and `decided_on`."""

    account_id: int
    idempotency_key: str
    origin: str
    principal_id: int
    code: str | None = None
    decided_on: DecidedOn | None = None
    reversed_by: list[int] = msgspec.field(default_factory=list)
    steps: list[int] = msgspec.field(default_factory=list)


class Account(msgspec.Struct, kw_only=True):
    """An account as it is, or as of a time."""

    id: int
    owner: str
    currency: str
    reference: str | None
    metadata: Metadata
    balance: Decimal
    held: Decimal
    available: Decimal
    version: int
    status: Literal["active", "frozen", "closed"]
    floor: Decimal | None
    ceiling: Decimal | None
    frozen: str | None
    closed: bool
    created_at: datetime
    principal_id: int | None
    as_of: datetime | None = None
    final: bool | None = None
    consistency: str | None = None
    position: str | None = None
    age_ms: int | None = None


class HistoryEntry(msgspec.Struct, kw_only=True):
    """An entry of an account's history."""

    transaction_id: int
    transaction_type: str
    amount: Decimal
    balance: Decimal
    held_change: Decimal
    held: Decimal
    version: int
    idempotency_key: str
    origin: str
    created_at: datetime


class Hold(msgspec.Struct, kw_only=True):
    """A hold. What has expired counts as released."""

    id: int
    status: Literal["open", "captured", "released", "expired"]
    account_id: int
    counterparty_id: int
    currency: str
    amount: Decimal
    captured: Decimal
    released: Decimal
    remaining: Decimal
    expires_at: datetime | None
    capture_at: datetime | None
    created_at: datetime


class Event(msgspec.Struct):
    """Something that was recorded. `id` is its position in the feed."""

    id: str
    type: str
    version: int
    ledger: str | None
    recorded_at: datetime | None
    data: dict[str, Any]


class Events(msgspec.Struct):
    """A page of the feed; `next` is the position after it."""

    events: list[Event]
    next: str


class Proposal(msgspec.Struct, kw_only=True):
    """A request that is posted when others have approved it."""

    id: int
    state: str
    rule: str
    approvals: int
    operation: str
    parent_id: int | None
    idempotency_key: str
    request: dict[str, Any]
    proposed_by: int
    proposed_at: datetime
    expires_at: datetime
    decisions: list[dict[str, Any]]
    execution: dict[str, Any] | None
