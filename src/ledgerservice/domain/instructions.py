"""What can be asked of the ledger, as frozen types; the syntax of each is already checked.

Amounts are plain decimals in major units, as text: which currency's digits they may have is known
only when their account is locked. None of these can be part of a cycle, so the garbage collector
need not know them (`gc=False`): there are tens of thousands in a batch.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import IntEnum, IntFlag
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType


class Kind(IntEnum):
    """What a transaction is, as stored."""

    DEPOSIT = 1
    WITHDRAWAL = 2
    TRANSFER = 3
    GENERAL = 4
    HOLD = 5
    CAPTURE = 6
    RELEASE = 7
    REVERSAL = 8
    POLICY = 9
    SCHEDULE = 10
    CANCELLATION = 11


BIGGEST_ID = 2**63 - 1
MAX_LEGS = 500
MAX_RATE_CHARACTERS = 40
KEY_PATTERN = r"[\x20-\x7e]{1,255}"

_is_key = re.compile(KEY_PATTERN, re.ASCII).fullmatch


def is_key(text: str) -> bool:
    """Whether `text` can be an idempotency key: 1 to 255 printable ASCII characters."""
    return _is_key(text) is not None


class Detail(msgspec.Struct, frozen=True, gc=False):
    """What a caller adds to a transaction. `metadata` is the text of a JSON object."""

    description: str | None = None
    reference: str | None = None
    effective_at: datetime | None = None
    metadata: str | None = None


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
    detail: Detail | None = None


class Leg(msgspec.Struct, frozen=True, gc=False):
    """A signed amount on an account, and what must be true of the account before it moves."""

    account_id: int
    amount: str
    currency: str | None = None
    available_at_least: str | None = None
    balance_at_least: str | None = None
    version: int | None = None


class Exchange(msgspec.Struct, frozen=True, gc=False):
    """The rate of a transaction of two currencies: one unit of `sell` for `rate` units of `buy`.

    What is left over by rounding goes to `rounding_account_id`, which is of the currency `buy`.
    `sold` is how much is exchanged, where more of `sell` is moved, such as a fee.
    """

    sell: str
    buy: str
    rate: str
    rounding_account_id: int | None = None
    sold: str | None = None


class General(msgspec.Struct, frozen=True, gc=False):
    """A transaction of 2 to 500 legs; the scope of `key` is the first leg's account."""

    legs: tuple[Leg, ...]
    key: str
    exchange: Exchange | None = None
    detail: Detail | None = None

    @property
    def account_id(self) -> int:
        """The first leg's account."""
        return self.legs[0].account_id


class Hold(msgspec.Struct, frozen=True, gc=False):
    """Reserve an amount, for `counterparty_id` or (None) to be withdrawn.

    It expires at `expires_at`; at `capture_at` the service captures what remains.
    """

    account_id: int
    counterparty_id: int | None
    amount: str
    key: str
    expires_at: datetime | None = None
    capture_at: datetime | None = None
    detail: Detail | None = None


class Step(msgspec.Struct, frozen=True, gc=False):
    """An instruction that builds on a transaction, whose account is the scope of its key."""

    parent_id: int
    key: str
    detail: Detail | None = None


class Capture(Step, frozen=True, gc=False):
    """Move held money; None is all that remains. `final` releases the rest."""

    amount: str | None = None
    final: bool = False


class Release(Step, frozen=True, gc=False):
    """Give held money back to its account; None is all that remains."""

    amount: str | None = None


class Reversal(Step, frozen=True, gc=False):
    """Move a transaction's money back: all that is left, an `amount` of two legs, or by `legs`.

    `force` lets it overdraw.
    """

    amount: str | None = None
    legs: tuple[Leg, ...] | None = None
    force: bool = False
    actor: str | None = None


class Execution(Step, frozen=True, gc=False):
    """Do what was scheduled. The service asks for it, when it is time."""


class Cancellation(Step, frozen=True, gc=False):
    """Do not do what was scheduled."""


class Frozen(IntFlag):
    """What an account is closed to; the sum of these, as stored."""

    DEBITS = 1
    CREDITS = 2
    CLOSED = 4


class PolicyChange(msgspec.Struct, frozen=True, gc=False):
    """Change an account's policy; what is UNSET stays. Nothing opens a closed account again."""

    account_id: int
    key: str
    floor: str | UnsetType = UNSET
    ceiling: str | UnsetType | None = UNSET
    frozen: int | UnsetType = UNSET
    closed: bool = False
    actor: str | None = None
    reason: str | None = None
    detail: Detail | None = None


class Schedule(msgspec.Struct, frozen=True, gc=False):
    """Transfer at a later time."""

    account_id: int
    counterparty_id: int
    amount: str
    execute_at: datetime
    key: str
    detail: Detail | None = None


Instruction = Movement | General | Hold | PolicyChange | Schedule | Step
"""Whatever writes a transaction."""

OWN_KEY_MARK = "\N{MIDDLE DOT}"
"""Begins the keys that the service makes; no caller can send it in a key."""


class Group(msgspec.Struct, frozen=True, gc=False):
    """Instructions given together: each for itself, or, if `linked`, all or none.

    A tuple among them is linked by itself. `dry_run`: the answer is what it would be, and nothing
    is written.
    """

    movements: Sequence[Instruction | tuple[Instruction, ...]]
    linked: bool = False
    ledger: int = 1
    dry_run: bool = False

    def instructions(self) -> Sequence[Instruction]:
        """All of them, in order."""
        if tuple not in set(map(type, self.movements)):
            return self.movements  # type: ignore[return-value]
        flat: list[Instruction] = []
        for one in self.movements:
            if type(one) is tuple:
                flat += one
            else:
                flat.append(one)  # type: ignore[arg-type]
        return flat


_AMOUNTS = {"amount", "floor", "ceiling", "available_at_least", "balance_at_least", "rate", "sold"}


def digest_of(asked: Instruction, *, in_order: bool = False) -> bytes:
    """SHA-256 of all that is asked for, but for the key; equal amounts are the same in any digits,
    and metadata in any order of its members, unless `in_order`.

    What is not given does not count, so that a field of a later release changes no digest.
    """
    content = [type(asked).__name__, _content(asked, in_order)]
    return hashlib.sha256(msgspec.json.encode(content)).digest()


def is_digest_of(digest: bytes, asked: Instruction) -> bool:
    """Whether it is the digest of that request, by this release or an earlier one, to which the
    order of metadata's members mattered.
    """
    return digest == digest_of(asked) or digest == digest_of(asked, in_order=True)


def unordered(metadata: str) -> str:
    """The same text for the same JSON object, whatever the order of its members."""
    return json.dumps(
        json.loads(metadata, parse_float=_as_written, parse_int=_as_written), sort_keys=True
    )


def _as_written(number: str) -> dict[str, str]:
    return {"\0": number}  # no metadata has a NUL, so that nothing else is the same


def _content(asked: msgspec.Struct, in_order: bool) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name in asked.__struct_fields__:
        value = getattr(asked, name)
        if name == "key" or (value is None and name != "ceiling") or value is UNSET:
            continue
        if name in _AMOUNTS and isinstance(value, str):
            value = value.rstrip("0").rstrip(".") if "." in value else value
            value = "0" if value == "-0" else value
        elif isinstance(value, datetime):
            value = value.astimezone(UTC)
        elif isinstance(value, msgspec.Struct):
            value = _content(value, in_order)
        elif isinstance(value, tuple):
            value = [_content(leg, in_order) for leg in value]
        elif name == "metadata" and not in_order:
            value = unordered(value)
        content[name] = value
    return content
