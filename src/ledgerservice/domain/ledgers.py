"""Ledgers: the request that adds one, and the answer; the parts of a ledger, which are ledgers of
their own: which one has an account, and the accounts between two of them.
"""

import re
import zlib
from datetime import datetime
from typing import NamedTuple

import msgspec

from ledgerservice.domain.accounts import Opening
from ledgerservice.domain.instructions import Origin
from ledgerservice.errors import InvalidField

LEDGER_NAME_PATTERN = r"[a-z0-9][a-z0-9_-]{0,62}"

MIN_PARTS, MAX_PARTS = 2, 64
CLEARING_SLOTS = 8
"""Clearing accounts of a pair of parts in each currency. More of them can be added later."""
EXTERNAL_IDS = 32_768
"""External accounts have ids above the negative of it, clearing accounts have ids below."""

_is_ledger_name = re.compile(LEDGER_NAME_PATTERN, re.ASCII).fullmatch


class LedgerRequest(msgspec.Struct, frozen=True, gc=False):
    """A request for a ledger. The name is its key. `shard` is where it is to be; None: on main.
    `shards` is the number of its parts, if any; `places` are the shards that get them, in order.
    """

    name: str
    dry_run: bool = False
    principal_id: int = 0
    shard: str | None = None
    shards: int | None = None
    places: tuple[str, ...] = ()


class LedgerRecord(msgspec.Struct, frozen=True, gc=False):
    """A ledger as recorded; the id is 0 in a dry run. `replayed`: it existed before the request."""

    name: str
    id: int
    created_at: datetime
    shard: str = "main"
    shards: int | None = None
    replayed: bool = False


def is_ledger_name(text: str) -> bool:
    """Whether `text` is a valid name: up to 63 lower-case letters, digits, - and _."""
    return _is_ledger_name(text) is not None


def check_shards(shards: int | None) -> None:
    """Raises InvalidField unless a ledger can have so many parts."""
    if shards is not None and not MIN_PARTS <= shards <= MAX_PARTS:
        raise InvalidField("shards", f"must be {MIN_PARTS} to {MAX_PARTS}")


class Claim(NamedTuple):
    """A key or a reference of an account to open, and the part of its ledger that is to have it."""

    ledger: int
    name: str
    part: int


class Parts(msgspec.Struct, frozen=True):
    """The parts of a ledger, which are ledgers of their own: their ids, by their number."""

    ledger_id: int
    ids: tuple[int, ...]

    def number_of(self, account_id: int) -> int:
        """The number of the part that has an account; of an external account: the first."""
        return account_id % len(self.ids) if account_id > 0 else 0

    def home(self, account_id: int) -> int:
        """The id of the part that has an account."""
        return self.ids[self.number_of(account_id)]

    def claims_of(self, opening: Opening) -> list[Claim]:
        """The names that are claimed before an account is opened: its key and its reference.

        Without any, as without a caller's key, nothing else can mean the same account.
        """
        names = [] if opening.origin is not Origin.CALLER else [f"key {opening.key}"]
        if opening.reference is not None:
            names.append(f"reference {opening.reference}")
        return [Claim(self.ledger_id, name, self.part_for(opening)) for name in names]

    def part_for(self, opening: Opening) -> int:
        """The part that a new account goes to: the one that is asked for, or by its key."""
        if opening.part is not None:
            return opening.part
        return zlib.crc32(opening.key.encode()) % len(self.ids)

    def clearing_id(self, account_id: int, other_id: int, currency_number: int) -> int:
        """The clearing account for transfers from an account to one of another part: it has the
        same id on both.
        """
        low, high = sorted((self.number_of(account_id), self.number_of(other_id)))
        slot = account_id // len(self.ids) % CLEARING_SLOTS
        place = (low * MAX_PARTS + high) * CLEARING_SLOTS + slot
        return -(EXTERNAL_IDS * (place + 1) + currency_number)


def credit_key(ledger_id: int, hold_id: int) -> str:
    """The key of the credit that belongs to a hold."""
    return f"x:{ledger_id}:{hold_id}"


def end_key(hold_id: int) -> str:
    """The key of the end of a hold: there is one."""
    return f"x:{hold_id}:end"


def hold_of_key(origin: Origin, key: str) -> tuple[int, int] | None:
    """The ledger and the hold that a credit belongs to, by its key; None if it is another key."""
    match origin, key.split(":"):
        case Origin.CROSSING, ["x", ledger_id, hold_id] if hold_id != "end":
            return int(ledger_id), int(hold_id)
    return None
