"""The domain's words, as frozen types.

currency          a unit of accounts: a code, and digits after the point that never change
account           an owner, one currency, a live balance, a held amount and a version
external account  the other side of deposits and withdrawals; one per ledger and currency
transaction       an immutable, balanced group of entries, or the record of a decline
entry             a signed amount on one account, with that account's seq and both results
declined          refused for a reason of state; recorded, the same answer for ever
rejected          refused because the request is bad or names what is not there; never recorded
replay            the answer to a key seen before: the original result, nothing moved

Amounts are whole minor units. Times carry their zone. None of these can be part of a cycle, so
the garbage collector need not know them (`gc=False`): there are tens of thousands in a batch.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any, Self

import msgspec


class Kind(IntEnum):
    """What a transaction is, as stored."""

    DEPOSIT = 1
    WITHDRAWAL = 2
    TRANSFER = 3


class Status(IntEnum):
    """How a movement was decided, as stored."""

    POSTED = 1
    DECLINED = 2


class Decline(StrEnum):
    """Why a movement was declined. The values are stored and public; never change one."""

    INSUFFICIENT_FUNDS = "insufficient_funds"
    BALANCE_LIMIT = "balance_limit"


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


BIGGEST_ID = 2**63 - 1
KEY_PATTERN = r"[\x20-\x7e]{1,255}"

_is_key = re.compile(KEY_PATTERN, re.ASCII).fullmatch


def is_key(text: str) -> bool:
    """Whether `text` can be an idempotency key: 1 to 255 printable ASCII characters."""
    return _is_key(text) is not None


class Movement(msgspec.Struct, frozen=True, gc=False):
    """A request to move money, its syntax already checked.

    `account_id` is the account debited, or deposited to: the scope of `key`. `counterparty_id`
    is the account a transfer credits, else None. `amount` is a positive plain decimal in major
    units (`money.is_positive_amount`).
    """

    kind: Kind
    account_id: int
    counterparty_id: int | None
    amount: str
    key: str


class Group(msgspec.Struct, frozen=True, gc=False):
    """Movements asked for together: each for itself, or, if `linked`, all or none."""

    movements: Sequence[Movement]
    linked: bool = False


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


class Transaction(msgspec.Struct, frozen=True, gc=False):
    """A recorded outcome: posted, with its entries, or declined, with its refusal."""

    id: int
    kind: Kind
    account_id: int
    counterparty_id: int
    key: str
    amount: int
    currency: str
    exponent: int
    recorded_at: datetime
    renderer: int
    entries: tuple[Entry, ...] = ()
    refusal: Refusal | None = None

    @property
    def status(self) -> Status:
        """Posted or declined."""
        return Status.POSTED if self.refusal is None else Status.DECLINED

    @classmethod
    def of_row(cls, row: tuple[Any, ...], entries: Iterable[Entry]) -> Self:
        """A recorded transaction from its row and entries; its own account's entry comes first.

        The row holds id, kind, account_id, counterparty_id, key, amount, currency, exponent,
        recorded_at, renderer, decline_reason, deciding_account_id, deciding_version and
        deciding_available, in this order.
        """
        refusal = None if row[10] is None else Refusal(Decline(row[10]), *row[11:14])
        own_first = sorted(entries, key=lambda e: (e.account_id != row[2], e.account_id, e.seq))
        fields = (row[0], Kind(row[1]), *row[2:10], tuple(own_first), refusal)
        return cls(*fields)


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


Outcomes = list[Outcome] | Failed
"""The answer to a group: an outcome for each movement, in order, or that it failed."""


class Currency(msgspec.Struct, frozen=True, gc=False):
    """A currency, as asked for or as it is: its code, digits after the point, and name.

    `replayed`: it was there already.
    """

    code: str
    exponent: int
    name: str
    replayed: bool = False


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


class Opening(msgspec.Struct, frozen=True, gc=False):
    """A request to open an account. `key` and `reference` are unique in the ledger."""

    owner: str
    currency: str
    reference: str | None
    key: str


class Opened(msgspec.Struct, frozen=True, gc=False):
    """The answer to an opening: the account as it was opened, empty."""

    account_id: int
    owner: str
    currency: str
    exponent: int
    reference: str | None
    key: str
    created_at: datetime
    replayed: bool = False
