"""The domain's words, as frozen types.

currency          a unit of accounts: a code, and digits after the point that never change
account           an owner, one currency, a live balance, a held amount and a version
external account  the other side of deposits and withdrawals; one per ledger and currency
transaction       an immutable, balanced group of entries, or the record of a decline
entry             a signed amount on one account, with that account's seq and both results
hold              money reserved on an account: captured, released, or expired
policy            an account's limits: floor, ceiling, frozen, closed
declined          refused for a reason of state; recorded, the same answer for ever
rejected          refused because the request is bad or names what is not there; never recorded
replay            the answer to a key seen before: the original result, nothing moved

Amounts are whole minor units. Times carry their zone. None of these can be part of a cycle, so
the garbage collector need not know them (`gc=False`): there are tens of thousands in a batch.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any, Self

import msgspec

from ledgerservice.domain.instructions import Detail, Kind


class Status(IntEnum):
    """How a movement was decided, as stored."""

    POSTED = 1
    DECLINED = 2


class Decline(StrEnum):
    """Why a movement was declined. The values are stored and public; never change one."""

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


class Reject(StrEnum):
    """Why a movement was rejected. The values are public; never change one."""

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


class Account(msgspec.Struct, frozen=True, gc=False):
    """An account's state as locked. `floor` is None for an external account."""

    id: int
    currency: str
    currency_number: int
    exponent: int
    balance: int
    held: int
    version: int
    floor: int | None
    last_recorded_at: datetime
    ceiling: int | None = None
    restricted: int = 0

    @property
    def external_id(self) -> int:
        """The external account of this account's currency."""
        return -self.currency_number


class Entry(msgspec.Struct, frozen=True, gc=False):
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

    reason: Decline
    account_id: int
    version: int
    available: int
    balance: int | None = None


class HoldTerms(msgspec.Struct, frozen=True, gc=False):
    """What was agreed on a hold. `counterparty_id` is negative where it is to be withdrawn."""

    account_id: int
    counterparty_id: int
    amount: int
    expires_at: datetime | None
    capture_at: datetime | None


class Policy(msgspec.Struct, frozen=True, gc=False):
    """An account's policy from its entry `seq` on.

    `lowest`: how far below the floor a forced reversal takes the account with that entry.
    """

    account_id: int
    seq: int
    floor: int
    ceiling: int | None
    restricted: int
    actor: str | None
    reason: str | None
    lowest: int | None = None


class ScheduleTerms(msgspec.Struct, frozen=True, gc=False):
    """A transfer to come."""

    account_id: int
    counterparty_id: int
    amount: int
    execute_at: datetime


class Extra(msgspec.Struct, frozen=True, gc=False):
    """What a transaction has beyond its row and entries.

    `parent_id` is what it builds on, `remaining` what its hold has left after it, `currencies`
    the code and exponent of each number that its entries have; a decline's is that of the account
    that decided it.
    """

    digest: bytes
    detail: Detail
    currencies: dict[int, tuple[str, int]]
    parent_id: int | None = None
    remaining: int | None = None
    exchange: str | None = None
    hold: HoldTerms | None = None
    policies: tuple[Policy, ...] = ()
    schedule: ScheduleTerms | None = None


class Transaction(msgspec.Struct, frozen=True, gc=False):
    """A recorded outcome: posted, with its entries, or declined, with its refusal."""

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

    @property
    def status(self) -> Status:
        """Posted or declined."""
        return Status.POSTED if self.refusal is None else Status.DECLINED

    @classmethod
    def of_row(
        cls,
        row: tuple[Any, ...],
        entries: Iterable[Entry],
        extra: Extra | None = None,
        deciding_balance: int | None = None,
    ) -> Self:
        """A recorded transaction from its rows; the entries in the order of `answered`.

        The row holds id, kind, account_id, counterparty_id, key, amount, currency, exponent,
        recorded_at, renderer, decline_reason, deciding_account_id, deciding_version and
        deciding_available, in this order.
        """
        refusal = None
        if row[10] is not None:
            refusal = Refusal(Decline(row[10]), row[11], row[12], row[13], deciding_balance)
        fields = (row[0], Kind(row[1]), *row[2:10], answered(row[2], entries), refusal, extra)
        return cls(*fields)


def answered(account_id: int, entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Entries in the order of an answer: those of the transaction's own account first."""
    return tuple(sorted(entries, key=lambda e: (e.account_id != account_id, e.account_id, e.seq)))


class HoldState(msgspec.Struct, frozen=True, gc=False):
    """A hold as locked with its account. From `ends_at` on it reserves nothing; what is to be
    captured by the service first has none before that was tried.
    """

    id: int
    terms: HoldTerms
    remaining: int
    ends_at: datetime | None

    def has_expired(self, moment: datetime) -> bool:
        """Whether it still reserves something by then, though its time is over."""
        return self.remaining > 0 and self.ends_at is not None and self.ends_at <= moment


class Parents(msgspec.Struct, frozen=True):
    """What requests build on, by transaction id, as read under the locks.

    `transactions` are those they name, posted or declined, with their entries. `holds` are those
    they name and every expired one of the locked accounts. `reversed` has what was moved back of
    a transaction, by account. `open_schedules` are those not yet settled.
    """

    transactions: Mapping[int, "Transaction"] = MappingProxyType({})
    holds: Mapping[int, HoldState] = MappingProxyType({})
    reversed: Mapping[int, Mapping[int, int]] = MappingProxyType({})
    open_schedules: frozenset[int] = frozenset()


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """The answer to a movement that has a record; `replayed` if its key was seen before."""

    transaction: Transaction
    replayed: bool

    @property
    def posted(self) -> bool:
        """Whether money was moved, now or when the key was first seen; else it was declined."""
        return self.transaction.refusal is None


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """The answer to a movement that is not recorded. `account_id` is the account at fault."""

    reason: Reject
    account_id: int | None = None

    @property
    def posted(self) -> bool:
        """Never."""
        return False


Outcome = Recorded | Rejected


class Failed(msgspec.Struct, frozen=True, gc=False):
    """The answer to a linked group of which nothing was posted, and no key was recorded.

    `index` is the place of the first movement at fault, `outcome` what it would have got; if that
    is a decline, it is not recorded either.
    """

    index: int
    outcome: Outcome


Outcomes = list[Any] | Failed
"""The answer to a group: an `Outcome` for each instruction, in order, or that it failed.

For a tuple of them, which is linked by itself: a list of outcomes, or that it failed.
"""


class Currency(msgspec.Struct, frozen=True, gc=False):
    """A currency, as asked for or as it is: its code, digits after the point, and name.

    `replayed`: it was there already.
    """

    code: str
    exponent: int
    name: str
    replayed: bool = False
    dry_run: bool = False


CODE_PATTERN = r"[A-Z][A-Z0-9]{0,15}"
MAX_EXPONENT = 12
MAX_NAME_LENGTH = 255

_is_code = re.compile(CODE_PATTERN, re.ASCII).fullmatch


def is_code(text: str) -> bool:
    """Whether `text` can be a currency's code: 1 to 16 capital letters and digits."""
    return _is_code(text) is not None


def is_currency(currency: Currency) -> bool:
    """Whether a currency can be: its code, its exponent, and a name that PostgreSQL can keep."""
    return (
        is_code(currency.code)
        and type(currency.exponent) is int
        and 0 <= currency.exponent <= MAX_EXPONENT
        and 1 <= len(currency.name) <= MAX_NAME_LENGTH
        and "\0" not in currency.name
        and not any("\ud800" <= character <= "\udfff" for character in currency.name)
    )


LEDGER_NAME_PATTERN = r"[a-z0-9][a-z0-9_-]{0,62}"

_is_ledger_name = re.compile(LEDGER_NAME_PATTERN, re.ASCII).fullmatch


def is_ledger_name(text: str) -> bool:
    """Whether `text` can name a ledger: up to 63 small letters, digits, - and _."""
    return _is_ledger_name(text) is not None


class NewLedger(msgspec.Struct, frozen=True, gc=False):
    """A request for a ledger, which has no `id` yet, or the answer; the name is its key."""

    name: str
    id: int = 0
    created_at: datetime | None = None
    replayed: bool = False
    dry_run: bool = False


class Opening(msgspec.Struct, frozen=True, gc=False):
    """A request to open an account. `key` and `reference` are unique in the ledger; `metadata` is
    the text of a JSON object.
    """

    owner: str
    currency: str
    reference: str | None
    key: str
    ledger: int = 1
    dry_run: bool = False
    metadata: str | None = None


class Opened(msgspec.Struct, frozen=True, gc=False):
    """The answer to an opening: the account as it was opened, empty."""

    account_id: int
    owner: str
    currency: str
    exponent: int
    reference: str | None
    key: str
    created_at: datetime
    ledger: int = 1
    metadata: str | None = None
    replayed: bool = False
