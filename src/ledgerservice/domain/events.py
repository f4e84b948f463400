"""Events of the change feed: what was recorded, as canonical bytes and as typed lines.

The same rows give the same bytes for ever: in every process, and however often an event is read. A
released version of the form is never changed; a new form is a new version.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ledgerservice.domain.accounts import restrictions_of
from ledgerservice.domain.amounts import optional_amount, to_major
from ledgerservice.domain.instructions import Detail, Kind, Origin
from ledgerservice.domain.metadata import json_object
from ledgerservice.domain.timestamps import optional_timestamp, timestamp
from ledgerservice.domain.transactions import (
    Entry,
    HoldTerms,
    Policy,
    Refusal,
    ScheduleTerms,
    Status,
    Transaction,
)

VERSION = 1


class Line(msgspec.Struct, frozen=True, gc=False):
    """An entry as read models keep it. Amounts are in minor units of the currency."""

    account_id: int
    version: int
    transaction_id: int
    kind: Kind
    amount: int
    held_change: int
    balance: int
    held: int
    currency: str
    exponent: int
    key: str
    origin: Origin
    recorded_at: datetime


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something that was recorded. `id` is its place in the order of the feed; `body` is a JSON
    object. Ids have gaps.
    """

    id: int
    ledger_id: int
    ledger: str
    type: str
    body: bytes
    accounts: tuple[int, ...] = ()
    """The accounts that it names, for filters."""
    lines: tuple[Line, ...] = ()


class OpenedAccount(msgspec.Struct, frozen=True, gc=False):
    """An account as it was opened. `metadata` is the text of a JSON object."""

    change_id: int
    ledger_id: int
    id: int
    owner: str
    currency: str
    reference: str | None
    created_at: datetime
    metadata: str | None


class AddedCurrency(msgspec.Struct, frozen=True, gc=False):
    """A currency as it was added."""

    change_id: int
    code: str
    exponent: int
    name: str


class AddedLedger(msgspec.Struct, frozen=True, gc=False):
    """A ledger as it was added."""

    change_id: int
    ledger_id: int
    name: str
    created_at: datetime


Change = Transaction | OpenedAccount | AddedCurrency | AddedLedger

TYPES = (
    "transaction.posted",
    "transaction.declined",
    "transaction.reversed",
    "hold.placed",
    "hold.captured",
    "hold.released",
    "hold.expired",
    "schedule.created",
    "schedule.executed",
    "schedule.cancelled",
    "account.opened",
    "account.policy_changed",
    "currency.added",
    "ledger.added",
)
"""All types of events."""

_POSTED_TYPES = {
    Kind.HOLD: "hold.placed",
    Kind.CAPTURE: "hold.captured",
    Kind.RELEASE: "hold.released",
    Kind.REVERSAL: "transaction.reversed",
    Kind.POLICY: "account.policy_changed",
    Kind.SCHEDULE: "schedule.created",
    Kind.CANCELLATION: "schedule.cancelled",
    Kind.CROSSING: "hold.placed",
    Kind.CROSS_DEBIT: "hold.captured",
    Kind.CROSS_RELEASE: "hold.released",
}
_SERVICE_TYPES = {Origin.EXPIRY: "hold.expired", Origin.EXECUTION: "schedule.executed"}


def type_of(transaction: Transaction) -> str:
    """The type of a transaction's event. Every decline is `transaction.declined`."""
    if transaction.refusal is not None:
        return "transaction.declined"
    by_kind = _POSTED_TYPES.get(transaction.kind, "transaction.posted")
    return _SERVICE_TYPES.get(transaction.origin, by_kind)


# The form of an event, version 1.


class _Envelope(msgspec.Struct):
    id: str
    type: str
    version: int
    ledger: str | None
    recorded_at: str | None
    data: Any


class _Entry(msgspec.Struct, gc=False):
    account_id: int
    currency: str
    amount: str
    balance: str
    held_change: str
    held: str
    version: int


class _DecidedOn(msgspec.Struct, gc=False):
    account_id: int
    currency: str
    available: str
    balance: str
    version: int


class _Policy(msgspec.Struct, gc=False):
    account_id: int
    floor: str
    ceiling: str | None
    frozen: str | None
    closed: bool
    actor: str | None
    reason: str | None


class _Transaction(msgspec.Struct, kw_only=True):
    """The data of a transaction. Members with UNSET belong to some transactions only."""

    transaction_id: int
    transaction_type: str
    status: str
    account_id: int
    counterparty_id: int | None
    amount: str
    currency: str
    idempotency_key: str
    origin: str
    entries: list[_Entry]
    code: str | UnsetType = UNSET
    decided_on: _DecidedOn | UnsetType = UNSET
    parent_id: int | UnsetType | None = UNSET
    remaining: str | UnsetType | None = UNSET
    expires_at: str | UnsetType | None = UNSET
    capture_at: str | UnsetType | None = UNSET
    execute_at: str | UnsetType = UNSET
    policy: _Policy | UnsetType = UNSET
    exchange: Raw | UnsetType | None = UNSET
    description: str | UnsetType | None = UNSET
    reference: str | UnsetType | None = UNSET
    effective_at: str | UnsetType | None = UNSET
    metadata: Raw | UnsetType | None = UNSET


class _Account(msgspec.Struct):
    account_id: int
    owner: str
    currency: str
    reference: str | None
    metadata: Raw | None


class _Currency(msgspec.Struct):
    code: str
    exponent: int
    name: str


class _Ledger(msgspec.Struct):
    name: str


def position(epoch: int, number: int) -> str:
    """The position after an event, as readers keep it: `1-1301`."""
    return f"{epoch}-{number}"


_encode = msgspec.json.Encoder().encode


def event_of(epoch: int, ledger_id: int, ledger: str, change: Change) -> Event:
    """The event of a change in a ledger."""
    return _MAKERS[type(change)](epoch, ledger_id, ledger, change)


def _transaction(epoch: int, ledger_id: int, ledger: str, change: Transaction) -> Event:
    event_type = type_of(change)
    time = timestamp(change.recorded_at)
    entries = [(entry, *_currency_of(change, entry)) for entry in change.entries]
    data = _Transaction(
        transaction_id=change.id,
        transaction_type=change.kind.name,
        status="posted" if change.status is Status.POSTED else "declined",
        account_id=change.account_id,
        counterparty_id=change.counterparty_id,
        amount=to_major(change.amount, change.exponent),
        currency=change.currency,
        idempotency_key=change.key,
        origin=change.origin.name.lower(),
        entries=[_entry(*one) for one in entries],
    )
    if change.refusal is not None:
        data.code = change.refusal.reason.value
        data.decided_on = _decided_on(change, change.refusal)
    if change.extra is not None:
        _add_side_rows(data, change)
    body = _encode(_Envelope(position(epoch, change.id), event_type, VERSION, ledger, time, data))
    lines = tuple(_line(change, *one) for one in entries)
    return Event(change.id, ledger_id, ledger, event_type, body, _accounts_of(data), lines)


def _accounts_of(data: _Transaction) -> tuple[int, ...]:
    named = [data.account_id, *(entry.account_id for entry in data.entries)]
    if data.counterparty_id is not None:
        named.append(data.counterparty_id)
    return tuple(dict.fromkeys(named))


def _currency_of(change: Transaction, entry: Entry) -> tuple[str, int]:
    if change.extra is None:
        return change.currency, change.exponent
    return change.extra.currencies[entry.currency_number]


def _entry(entry: Entry, currency: str, exponent: int) -> _Entry:
    return _Entry(
        entry.account_id,
        currency,
        to_major(entry.amount, exponent),
        to_major(entry.balance, exponent),
        to_major(entry.held_change, exponent),
        to_major(entry.held, exponent),
        entry.seq,
    )


def _line(change: Transaction, entry: Entry, currency: str, exponent: int) -> Line:
    return Line(
        entry.account_id,
        entry.seq,
        change.id,
        change.kind,
        entry.amount,
        entry.held_change,
        entry.balance,
        entry.held,
        currency,
        exponent,
        change.key,
        change.origin,
        change.recorded_at,
    )


def _decided_on(change: Transaction, refusal: Refusal) -> _DecidedOn:
    currency, exponent = change.currency, change.exponent
    if change.extra is not None:
        [(currency, exponent)] = change.extra.currencies.values()
    return _DecidedOn(
        refusal.account_id,
        currency,
        to_major(refusal.available, exponent),
        to_major(refusal.balance, exponent),
        refusal.version,
    )


_NO_DETAIL = Detail()


def _add_side_rows(data: _Transaction, change: Transaction) -> None:
    extra = change.extra
    assert extra is not None
    data.parent_id = extra.parent_id
    data.remaining = optional_amount(extra.remaining, change.exponent)
    data.exchange = json_object(extra.exchange)
    if isinstance(extra.terms, HoldTerms):
        data.counterparty_id = extra.terms.counterparty_id
        data.expires_at = optional_timestamp(extra.terms.expires_at)
        data.capture_at = optional_timestamp(extra.terms.capture_at)
    elif isinstance(extra.terms, ScheduleTerms):
        data.counterparty_id = extra.terms.counterparty_id
        data.execute_at = timestamp(extra.terms.execute_at)
    for policy in extra.policies:
        data.policy = _policy(policy, change.exponent)
    detail = extra.detail or _NO_DETAIL
    data.description, data.reference = detail.description, detail.reference
    data.effective_at = optional_timestamp(detail.effective_at)
    metadata: Any = detail.metadata  # always a text here
    data.metadata = json_object(metadata)


def _policy(policy: Policy, exponent: int) -> _Policy:
    return _Policy(
        policy.account_id,
        to_major(policy.floor, exponent),
        optional_amount(policy.ceiling, exponent),
        **restrictions_of(policy.restricted),
        actor=policy.actor,
        reason=policy.reason,
    )


def _account(epoch: int, ledger_id: int, ledger: str, change: OpenedAccount) -> Event:
    metadata = json_object(change.metadata)
    data = _Account(change.id, change.owner, change.currency, change.reference, metadata)
    place = position(epoch, change.change_id)
    time = timestamp(change.created_at)
    body = _encode(_Envelope(place, "account.opened", VERSION, ledger, time, data))
    return Event(change.change_id, ledger_id, ledger, "account.opened", body, (change.id,))


def _currency(epoch: int, ledger_id: int, ledger: str, change: AddedCurrency) -> Event:
    data = _Currency(change.code, change.exponent, change.name)
    place = position(epoch, change.change_id)
    body = _encode(_Envelope(place, "currency.added", VERSION, None, None, data))
    return Event(change.change_id, ledger_id, ledger, "currency.added", body)


def _ledger(epoch: int, ledger_id: int, ledger: str, change: AddedLedger) -> Event:
    place, time = position(epoch, change.change_id), timestamp(change.created_at)
    data = _Ledger(change.name)
    body = _encode(_Envelope(place, "ledger.added", VERSION, change.name, time, data))
    return Event(change.change_id, ledger_id, ledger, "ledger.added", body)


_MAKERS: dict[Any, Callable[[int, int, str, Any], Event]] = {
    Transaction: _transaction,
    OpenedAccount: _account,
    AddedCurrency: _currency,
    AddedLedger: _ledger,
}
