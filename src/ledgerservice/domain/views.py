"""What reads answer: accounts, holds, schedules and the rest as they stand."""

from datetime import datetime

import msgspec

from ledgerservice.domain.instructions import Kind
from ledgerservice.domain.transactions import Status


class AccountView(msgspec.Struct, frozen=True):
    """An account as it stands. Amounts in minor units of a currency with `exponent` digits;
    `metadata` is the text of a JSON object.
    """

    id: int
    owner: str
    currency: str
    exponent: int
    reference: str | None
    balance: int
    held: int
    version: int
    floor: int | None
    ceiling: int | None
    restricted: int
    created_at: datetime
    metadata: str | None = None


class HoldView(msgspec.Struct, frozen=True):
    """A hold as it stands. `ends_at`: when it ends by itself; None: not, or not yet known."""

    id: int
    account_id: int
    counterparty_id: int
    amount: int
    captured: int
    remaining: int
    expired: bool
    currency: str
    exponent: int
    expires_at: datetime | None
    capture_at: datetime | None
    created_at: datetime
    ends_at: datetime | None


class ScheduleView(msgspec.Struct, frozen=True):
    """A scheduled transfer as it stands; `settled_kind` and `settled_status` say how it ended."""

    id: int
    account_id: int
    counterparty_id: int
    amount: int
    currency: str
    exponent: int
    execute_at: datetime
    created_at: datetime
    settled_by: int | None
    settled_kind: int | None
    settled_status: int | None


class PolicyView(msgspec.Struct, frozen=True):
    """An account's policy from its entry `version` on: what was changed when, by whom and why."""

    version: int
    transaction_id: int
    floor: int
    ceiling: int | None
    restricted: int
    lowest: int | None
    actor: str | None
    reason: str | None
    exponent: int
    recorded_at: datetime


class CurrencyView(msgspec.Struct, frozen=True):
    """A currency; `number` is its place in lists, and the negative of its external accounts' id."""

    code: str
    exponent: int
    name: str
    number: int


class LedgerView(msgspec.Struct, frozen=True):
    """A ledger: its name, and its number in the database."""

    id: int
    name: str
    created_at: datetime


class Child(msgspec.Struct, frozen=True):
    """A transaction that builds on another."""

    id: int
    kind: Kind
    status: Status


class HistoryEntry(msgspec.Struct, frozen=True):
    """One entry of an account's history. `version` is its seq, `balance` its result."""

    version: int
    transaction_id: int
    kind: Kind
    amount: int
    held_change: int
    exponent: int
    balance: int
    held: int
    key: str
    recorded_at: datetime
