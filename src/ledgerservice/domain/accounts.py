"""Accounts: the state that a batch locks, and the requests that open them with their answers."""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from ledgerservice.domain.instructions import Frozen, Origin

FrozenName = Literal["debits", "credits", "both"]
FROZEN_NAMES: dict[int, FrozenName | None] = {
    0: None,
    Frozen.DEBITS: "debits",
    Frozen.CREDITS: "credits",
    Frozen.DEBITS | Frozen.CREDITS: "both",
}


class Account(msgspec.Struct, frozen=True, gc=False):
    """An account's state as locked. `floor` is None for an external account.

    Amounts are in minor units. `restricted` is a sum of `Frozen` values.
    """

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


class Opening(msgspec.Struct, frozen=True, gc=False):
    """A request to open an account.

    `key` (within its `origin`) and `reference` are unique in the ledger. `metadata` is the text of
    a JSON object. `part` is the part of a ledger of several that is to have it; None: any.
    """

    owner: str
    currency: str
    reference: str | None
    key: str
    ledger: int = 1
    dry_run: bool = False
    metadata: str | None = None
    origin: Origin = Origin.CALLER
    principal_id: int = 0
    part: int | None = None


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
    origin: int = Origin.CALLER
    principal_id: int = 0
    replayed: bool = False


@cache  # the arithmetic of flags takes microseconds, and there are eight sums
def restrictions_of(restricted: int) -> Mapping[str, Any]:
    """What an account is closed to, by the names that answers and events have for it."""
    return MappingProxyType(
        {
            "frozen": FROZEN_NAMES[restricted & ~Frozen.CLOSED],
            "closed": bool(restricted & Frozen.CLOSED),
        }
    )


def restricted_of(frozen: FrozenName | None, *, closed: bool) -> int:
    """The sum of `Frozen` values that `restrictions_of` has written."""
    [restricted] = [value for value, name in FROZEN_NAMES.items() if name == frozen]
    return restricted | (Frozen.CLOSED if closed else 0)
