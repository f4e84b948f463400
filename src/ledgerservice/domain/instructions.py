"""What callers and the service can ask of the ledger, as frozen types with checked syntax.

Amounts are plain decimals in major units, as text. The number of decimals that a currency allows
is known only when the account is locked. The types cannot be part of a reference cycle, so the
garbage collector does not track them (`gc=False`): a batch has tens of thousands.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import Enum, IntEnum, IntFlag, auto
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
from msgspec import UNSET, UnsetType

from ledgerservice.domain.metadata import text_of_metadata


class Kind(IntEnum):
    """The kind of a transaction. The values are stored; never change one."""

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
    CROSSING = 12
    CROSS_CREDIT = 13
    CROSS_DEBIT = 14
    CROSS_RELEASE = 15


class Origin(IntEnum):
    """Who made a request. The values are stored; never change one.

    Idempotency keys of different origins are different keys. A caller's key therefore never meets
    a key of the service, and callers see only their own.
    """

    CALLER = 0
    SETUP = 1
    """The service, when it set up the database: the default ledger and the currencies."""
    UNKEYED = 2
    """A caller who opened an account without a key; the service made one up."""
    EXPIRY = 3
    """The service, to release a hold that has expired."""
    CAPTURE = 4
    """The service, to capture a hold at its `capture_at`."""
    EXECUTION = 5
    """The service, to execute a scheduled transfer."""
    CROSSING = 6
    """The service, to carry a transfer on that goes to another part of the ledger."""


def service_key(origin: Origin, parent_id: int) -> str:
    """The key of a service-initiated instruction on a hold or schedule: each is done once."""
    return f"{origin.name.lower()} {parent_id}"


BIGGEST_ID = 2**63 - 1
MAX_LEGS = 500
MAX_RATE_CHARACTERS = 40
# No blank at its ends: a header cannot have one there, and a proxy takes it away.
KEY_PATTERN = r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?"

_is_key = re.compile(KEY_PATTERN, re.ASCII).fullmatch


def is_key(text: str) -> bool:
    """Whether `text` can be an idempotency key.

    It has 1 to 255 printable ASCII characters, and no blank at its beginning or end.
    """
    return _is_key(text) is not None


class FieldType(Enum):
    """The meaning of a field, by which it is checked (`validation`) and digested (`digests`)."""

    KEY = auto()
    ID = auto()
    AMOUNT = auto()
    SIGNED_AMOUNT = auto()
    LIMIT = auto()
    RATE = auto()
    TIME = auto()
    NAME = auto()
    TEXT = auto()
    METADATA = auto()


Id = Annotated[int, FieldType.ID]
Amount = Annotated[str, FieldType.AMOUNT]
"""A positive plain decimal in major units."""
SignedAmount = Annotated[str, FieldType.SIGNED_AMOUNT]
Limit = Annotated[str, FieldType.LIMIT]
"""A plain decimal in major units, of either sign, or zero."""
Rate = Annotated[str, FieldType.RATE]
Time = Annotated[datetime, FieldType.TIME]
"""A timestamp with its zone."""
Name = Annotated[str, FieldType.NAME]
Text = Annotated[str, FieldType.TEXT]
Metadata = Annotated[str, FieldType.METADATA]
"""The text of a JSON object."""


class Detail(msgspec.Struct, frozen=True, gc=False):
    """The texts that a caller adds to a transaction.

    `metadata` is a dict, or the text of a JSON object; it is kept as that text. A dict that is not
    valid raises InvalidField.
    """

    description: Text | None = None
    reference: Name | None = None
    effective_at: Time | None = None
    metadata: Metadata | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.metadata, dict):
            msgspec.structs.force_setattr(self, "metadata", text_of_metadata(self.metadata))


class Movement(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A deposit, a withdrawal or a transfer.

    `account_id` is the account that is debited or deposited to; it is the scope of `key`.
    `counterparty_id` is the account that a transfer credits, else None. `amount` is a positive
    plain decimal in major units (`amounts.is_positive_amount`).
    """

    kind: Kind
    account_id: Id
    counterparty_id: Id | None
    amount: Amount
    key: str
    detail: Detail | None = None


class Leg(msgspec.Struct, frozen=True, gc=False):
    """A signed amount on an account, and the conditions on the account before it moves."""

    account_id: Id
    amount: SignedAmount
    currency: str | None = None
    available_at_least: Limit | None = None
    balance_at_least: Limit | None = None
    version: Id | None = None


class Exchange(msgspec.Struct, frozen=True, gc=False):
    """The rate of a transaction in two currencies: one unit of `sell` buys `rate` units of `buy`.

    The rounding difference goes to `rounding_account_id`, an account in the currency `buy`.
    `sold` is the amount exchanged, if more of `sell` is moved, for example a fee.
    """

    sell: str
    buy: str
    rate: Rate
    rounding_account_id: Id | None = None
    sold: Amount | None = None


class General(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A transaction of 2 to 500 legs; the scope of `key` is the first leg's account."""

    legs: tuple[Leg, ...]
    key: str
    exchange: Exchange | None = None
    detail: Detail | None = None

    @property
    def account_id(self) -> int:
        """The first leg's account."""
        return self.legs[0].account_id


class Hold(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Reserve an amount, to be captured for `counterparty_id` or (None) to be withdrawn.

    The hold expires at `expires_at`. At `capture_at` the service captures the remaining amount.
    """

    account_id: Id
    counterparty_id: Id | None
    amount: Amount
    key: str
    expires_at: Time | None = None
    capture_at: Time | None = None
    detail: Detail | None = None


class Initiated(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An instruction of a caller, or of the service on its own initiative."""

    origin: Origin = Origin.CALLER


class Step(Initiated, frozen=True, gc=False):
    """An instruction that builds on an earlier transaction, whose account is the scope of `key`."""

    parent_id: Id
    key: str
    detail: Detail | None = None


class Capture(Step, frozen=True, gc=False, tag=True):
    """Move held money; None is the whole remaining amount. `final` releases the rest."""

    amount: Amount | None = None
    final: bool = False


class Release(Step, frozen=True, gc=False, tag=True):
    """Return held money to its account; None is the whole remaining amount."""

    amount: Amount | None = None


class Reversal(Step, frozen=True, gc=False, tag=True):
    """Move a transaction's money back: the rest, an `amount` of two legs, or `legs`.

    `force` allows an overdraft.
    """

    amount: Amount | None = None
    legs: tuple[Leg, ...] | None = None
    force: bool = False
    actor: Name | None = None


class Execution(Step, frozen=True, gc=False, tag=True):
    """Execute a scheduled transfer. The service asks for it when the transfer is due."""


class Cancellation(Step, frozen=True, gc=False, tag=True):
    """Cancel a scheduled transfer."""


class Crossing(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Transfer to an account of another part of the ledger: the first of three steps, a hold.

    `counterparty_id` is an account of the part `to_ledger_id`. The hold is for the account
    `clearing_id` of this part.
    """

    account_id: Id
    counterparty_id: Id
    to_ledger_id: Id
    clearing_id: Id
    amount: Amount
    key: str
    detail: Detail | None = None


class CrossingBack(Step, frozen=True, gc=False, kw_only=True, tag=True):
    """Reverse a transfer out of another part: the first step of one to there.

    `parent_id` is the credit. None is the whole amount that was not moved back before.
    """

    counterparty_id: Id
    to_ledger_id: Id
    clearing_id: Id
    amount: Amount | None = None


class CrossCredit(Initiated, frozen=True, gc=False, kw_only=True, tag=True):
    """The second step: move the amount of the hold `hold_id` of another part to its account."""

    account_id: Id
    from_ledger_id: Id
    hold_id: Id
    clearing_id: Id
    amount: Amount
    key: str
    origin: Origin = Origin.CROSSING
    detail: Detail | None = None


class CrossDebit(Step, frozen=True, gc=False, tag=True):
    """The third step after a credit that was posted: capture the hold, whatever the policy."""


class CrossRelease(Step, frozen=True, gc=False, tag=True):
    """The third step after a credit that was declined: release the hold."""


class Frozen(IntFlag):
    """The movements that an account refuses. The sum of the values is stored."""

    DEBITS = 1
    CREDITS = 2
    CLOSED = 4


class PolicyChange(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Change an account's policy. UNSET fields stay as they are. Closing is final."""

    account_id: Id
    key: str
    floor: Limit | UnsetType = UNSET
    ceiling: Limit | UnsetType | None = UNSET
    frozen: int | UnsetType = UNSET
    closed: bool = False
    actor: Name | None = None
    reason: Text | None = None
    detail: Detail | None = None


class Schedule(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Transfer at a later time: the service executes the transfer at `execute_at`."""

    account_id: Id
    counterparty_id: Id
    amount: Amount
    execute_at: Time
    key: str
    detail: Detail | None = None


Instruction = (
    Movement
    | General
    | Hold
    | PolicyChange
    | Schedule
    | Capture
    | Release
    | Reversal
    | Execution
    | Cancellation
    | Crossing
    | CrossingBack
    | CrossCredit
    | CrossDebit
    | CrossRelease
)
"""Every request that writes a transaction. Their tags are for the process that posts them."""


class Group(msgspec.Struct, frozen=True, gc=False):
    """Instructions of one call: each stands alone, or, if `linked`, all are posted or none.

    A tuple among them is a linked group of its own. `dry_run`: report the answers and write
    nothing. `principal_id` is who makes them, 0 if it is not known. It is no part of a request: a
    repeat by another principal gets the original answer.
    """

    movements: Sequence[Instruction | tuple[Instruction, ...]]
    linked: bool = False
    ledger: int = 1
    dry_run: bool = False
    principal_id: int = 0

    def instructions(self) -> Sequence[Instruction]:
        """All of them, in order."""
        movements = self.movements
        if len(movements) == 1 and type(movements[0]) is Movement:  # most groups
            return movements  # type: ignore[return-value]
        if tuple not in set(map(type, movements)):
            return movements  # type: ignore[return-value]
        flat: list[Instruction] = []
        for one in movements:
            if type(one) is tuple:
                flat += one
            else:
                flat.append(one)  # type: ignore[arg-type]
        return flat


_field_types: dict[type[msgspec.Struct], dict[str, FieldType]] = {}


def field_types(struct: type[msgspec.Struct]) -> dict[str, FieldType]:
    """The fields of an instruction, or of a part of one, that have a `FieldType`."""
    known = _field_types.get(struct)
    if known is None:
        hints = get_type_hints(struct, include_extras=True)
        types = {name: next(_marks(hint), None) for name, hint in hints.items()}
        known = _field_types[struct] = {n: mark for n, mark in types.items() if mark is not None}
    return known


def _marks(hint: Any) -> Iterator[FieldType]:
    if isinstance(hint, FieldType):
        yield hint
    for part in (*get_args(hint), *getattr(hint, "__metadata__", ())):
        yield from _marks(part)
