"""Transactions: what a batch is decided on, what it writes, and what its callers are answered.

transaction   an immutable, balanced group of entries, or the record of a decline
entry         a signed amount on one account, with that account's seq and both results
hold          money reserved on an account until it is captured, released or expires
policy        an account's limits: floor, ceiling, frozen, closed
side rows     the rows that a transaction has beside its own and its entries: `Extra`
declined      refused for a reason of state; recorded, the same answer for ever
rejected      refused because the request is invalid or names something that does not exist; not
              recorded
replay        the answer to a key that was seen before: the original result, nothing is moved

Amounts are in minor units. Timestamps carry their zone. The types cannot be part of a reference
cycle, so the garbage collector does not track them (`gc=False`): a batch has tens of thousands.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any

import msgspec

from ledgerservice.domain.instructions import Detail, Kind, Origin


class Status(IntEnum):
    """The decision on a request. The values are stored; never change one."""

    POSTED = 1
    DECLINED = 2


class DeclineReason(StrEnum):
    """Why a request was declined. The values are stored and public; never change one."""

    INSUFFICIENT_FUNDS = "insufficient_funds"
    BALANCE_LIMIT = "balance_limit"
    BALANCE_CEILING = "balance_ceiling"
    BALANCE_NOT_ZERO = "balance_not_zero"
    ACCOUNT_FROZEN = "account_frozen"
    ACCOUNT_CLOSED = "account_closed"
    CONDITION_FAILED = "condition_failed"
    HOLD_EXCEEDED = "hold_exceeded"
    HOLD_CLOSED = "hold_closed"
    REVERSAL_EXCEEDED = "reversal_exceeded"
    POLICY_CONFLICT = "policy_conflict"
    SCHEDULE_SETTLED = "schedule_settled"


class Rejection(StrEnum):
    """Why a request was rejected. The values are public; never change one."""

    SAME_ACCOUNT = "same_account"
    KEY_REUSED = "idempotency_key_reused"
    ACCOUNT_NOT_FOUND = "account_not_found"
    CURRENCY_MISMATCH = "currency_mismatch"
    AMOUNT_PRECISION = "amount_precision"
    AMOUNT_LIMIT = "amount_limit"
    CURRENCY_UNKNOWN = "currency_unknown"
    REFERENCE_TAKEN = "reference_taken"
    CURRENCY_TAKEN = "currency_taken"
    TRANSACTION_NOT_FOUND = "transaction_not_found"
    HOLD_NOT_FOUND = "hold_not_found"
    SCHEDULE_NOT_FOUND = "schedule_not_found"
    LEGS_UNBALANCED = "legs_unbalanced"
    RATE_MISMATCH = "rate_mismatch"
    NOT_REVERSIBLE = "not_reversible"
    EXPIRY_PASSED = "expiry_passed"
    LEDGER_TAKEN = "ledger_taken"
    PART_UNKNOWN = "part_unknown"
    DIFFERENT_PARTS = "accounts_in_different_parts"


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One account's part in a transaction; `balance` and `held` are the results."""

    account_id: int
    seq: int
    transaction_id: int
    currency_number: int
    amount: int
    held_change: int
    balance: int
    held: int


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why a transaction was declined, and the state of the account that decided it."""

    reason: DeclineReason
    account_id: int
    version: int
    available: int
    balance: int


class HoldTerms(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The terms of a hold. `counterparty_id` is negative if captures are withdrawals.

    A transfer to another part of the ledger, `to_ledger_id`, has a clearing account as its
    counterparty, and goes to `to_account_id` there.
    """

    account_id: int
    counterparty_id: int
    amount: int
    expires_at: datetime | None
    capture_at: datetime | None
    to_ledger_id: int | None = None
    to_account_id: int | None = None


class Policy(msgspec.Struct, frozen=True, gc=False):
    """An account's policy from its entry `seq` on.

    `lowest` is the available amount after a forced reversal that left it below the floor.
    """

    account_id: int
    seq: int
    floor: int
    ceiling: int | None
    restricted: int
    actor: str | None
    reason: str | None
    lowest: int | None = None


class ScheduleTerms(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The terms of a scheduled transfer."""

    account_id: int
    counterparty_id: int
    amount: int
    execute_at: datetime


Terms = HoldTerms | ScheduleTerms
TERMS: dict[str, type[HoldTerms] | type[ScheduleTerms]] = {
    "holds": HoldTerms,
    "schedules": ScheduleTerms,
}
"""The terms that a transaction can set for later, by the table that keeps them."""


class Extra(msgspec.Struct, frozen=True, gc=False):
    """The side rows of a transaction, and the keyed digest of its request.

    `currencies` maps the currency number of each entry to its code and exponent; a decline has the
    currency of the account that decided it. `parent_id` is the transaction that it builds on,
    `remaining` what its hold has left after it, `terms` what it sets for later. `request` is the
    text of the request, if the record does not show it; it is written, but not read for answers.
    """

    digest: bytes
    salt: bytes | None
    detail: Detail
    currencies: dict[int, tuple[str, int]]
    parent_id: int | None = None
    remaining: int | None = None
    exchange: str | None = None
    terms: Terms | None = None
    policies: tuple[Policy, ...] = ()
    request: str | None = None


class Transaction(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A recorded decision: posted, with its entries, or declined, with its refusal.

    `extra` is None for a plain movement: a deposit, withdrawal or transfer without texts.
    """

    id: int
    kind: Kind
    account_id: int
    counterparty_id: int | None
    key: str
    amount: int
    currency: str
    exponent: int
    recorded_at: datetime
    renderer: int
    entries: tuple[Entry, ...] = ()
    refusal: Refusal | None = None
    extra: Extra | None = None
    origin: Origin = Origin.CALLER
    principal_id: int = 0

    @property
    def status(self) -> Status:
        """Posted or declined."""
        return Status.POSTED if self.refusal is None else Status.DECLINED


def in_answer_order(account_id: int, entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Entries in the order of an answer: those of the transaction's own account first."""
    return tuple(sorted(entries, key=lambda e: (e.account_id != account_id, e.account_id, e.seq)))


class HoldState(msgspec.Struct, frozen=True, gc=False):
    """A hold as locked with its account.

    The hold reserves nothing from `ends_at` on. A hold that the service must capture before it
    expires has no `ends_at` until the service has tried.
    """

    id: int
    terms: HoldTerms
    remaining: int
    ends_at: datetime | None

    def has_expired(self, now: datetime) -> bool:
        """Whether the hold has ended by `now` and still counts as held."""
        return self.remaining > 0 and self.ends_at is not None and self.ends_at <= now


class Parents(msgspec.Struct, frozen=True):
    """The state that requests build on, by transaction id, as read under the locks.

    `transactions`: the transactions that requests name, with their entries. `holds`: the holds that
    requests name, and every expired hold of the locked accounts. `reversed`: the amounts already
    reversed, by account. `open_schedules`: the schedules that are still pending.
    """

    transactions: Mapping[int, Transaction] = MappingProxyType({})
    holds: Mapping[int, HoldState] = MappingProxyType({})
    reversed: Mapping[int, Mapping[int, int]] = MappingProxyType({})
    open_schedules: frozenset[int] = frozenset()


class Recorded(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The answer to a request that has a record; `replayed` if its key was seen before."""

    transaction: Transaction
    replayed: bool

    @property
    def posted(self) -> bool:
        """Whether money was moved, now or when the key was first seen; else it was declined."""
        return self.transaction.refusal is None


class Rejected(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The answer to a request that is not recorded. `account_id` is the account at fault, `facts`
    are the figures at fault, amounts in major units.
    """

    reason: Rejection
    account_id: int | None = None
    facts: Mapping[str, str | int] = MappingProxyType({})

    @property
    def posted(self) -> bool:
        """Never."""
        return False


Outcome = Recorded | Rejected


class Failed(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The answer to a linked group of which nothing was posted and no key was recorded.

    `index` is the position of the first request at fault, `outcome` the answer it would have got.
    A decline among them is not recorded either.
    """

    index: int
    outcome: Outcome


Outcomes = list[Any] | Failed
"""The answer to a group: an `Outcome` for each instruction, in order, or `Failed`.

The item of a tuple, which is a linked group of its own, is a list of outcomes or `Failed`.
"""
