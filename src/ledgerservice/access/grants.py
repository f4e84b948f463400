"""A caller, and what it may do: scopes by ledger. Pure."""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from ledgerservice.access.covering import AccountGrant, all_accounts
from ledgerservice.access.meters import UNMETERED, Meter
from ledgerservice.access.scopes import ALL

Refusal = Literal[
    "key_missing",
    "key_invalid",
    "unavailable",
    "no_keys",
    "forwarded_without_keys",
    "signature_required",
    "signature_invalid",
]
"""The code of the problem that a request without a valid caller gets."""
Denial = Literal["ledger_not_found", "scope_missing", "limited_to_accounts"] | Refusal

NOWHERE: Mapping[int, int] = MappingProxyType({})
NO_GRANTS: Mapping[int, tuple[AccountGrant, ...]] = MappingProxyType({})
NO_NAMES: Mapping[str, int] = MappingProxyType({})


_is_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._-]{0,62}", re.ASCII).fullmatch


def is_principal_name(text: str) -> bool:
    """Whether `text` can be the name of a principal."""
    return _is_name(text) is not None


class Caller(msgspec.Struct, frozen=True, gc=False):
    """Who sends a request.

    `everywhere` has the scopes on all ledgers, `by_ledger` those on single ledgers, by id, and
    `ledgers` the ids of these by name. With a `refusal` the request has no valid key. `public_key`:
    each of its requests has a signature of this key, which was verified. `meter` measures what its
    key uses. `by_accounts` has the grants that are limited to accounts, by the id of their ledger;
    they are none of the scopes of a ledger. `expires_at_s`: when its token of a provider ends.
    """

    key_id: str = ""
    principal_id: int = 0
    everywhere: int = 0
    by_ledger: Mapping[int, int] = NOWHERE
    ledgers: Mapping[str, int] = NO_NAMES
    refusal: Refusal | None = None
    public_key: bytes | None = None
    meter: Meter = UNMETERED
    by_accounts: Mapping[int, tuple[AccountGrant, ...]] = NO_GRANTS
    expires_at_s: float | None = None

    def scopes_on(self, ledger: int) -> int:
        """The sum of its scopes on a whole ledger."""
        return self.everywhere | self.by_ledger.get(ledger, 0)

    def knows(self, ledger: int) -> bool:
        """Whether the ledger exists for this caller."""
        return bool(self.scopes_on(ledger)) or ledger in self.by_accounts

    def sees(self, ledger: int, scopes: int) -> frozenset[int] | None:
        """The accounts that its grants of one of these scopes cover; None: all of the ledger."""
        if not self.by_accounts or self.scopes_on(ledger) & scopes:
            return None
        grants = self.by_accounts.get(ledger, ())
        return all_accounts([one for one in grants if one.scopes & scopes])

    def sees_owners(self, ledger: int, scopes: int) -> frozenset[str] | None:
        """The owners of whom its grants of one of these scopes cover all accounts; None: all."""
        if not self.by_accounts or self.scopes_on(ledger) & scopes:
            return None
        grants = self.by_accounts.get(ledger, ())
        return frozenset(one.owner for one in grants if one.owner and one.scopes & scopes)

    def sees_account(self, ledger: int, scopes: int, account: int) -> bool:
        """Whether a grant of one of these scopes covers an account of the ledger."""
        if self.scopes_on(ledger) & scopes:
            return True
        grants = self.by_accounts.get(ledger, ())
        return any(account in one.accounts for one in grants if one.scopes & scopes)


EVERYONE = Caller(everywhere=int(ALL))
"""Whoever uses a service that has no keys and is open to its machine."""
STRANGER = Caller(refusal="key_missing")
"""Whoever sends no key."""
NEWCOMER = Caller("newcomer", refusal="unavailable")
"""Whoever has a valid token of a provider, and no row in the database yet."""


class Need(msgspec.Struct, frozen=True):
    """What an operation requires of its caller: at least one of `scopes`, if there are any.

    `place`: on the ledger of the request, or on all ledgers because the operation concerns all of
    them, or nowhere: any valid key will do. `named`: on the ledger that the path names, or on all
    ledgers if it names none. `is_open`: no key is required. `is_signed`: the request must be
    signed. `by_accounts`: a grant that is limited to accounts is enough; whoever declares it checks
    the accounts.
    """

    scopes: int = 0
    place: Literal["ledger", "everywhere", "named", "nowhere"] = "ledger"
    is_open: bool = False
    is_signed: bool = False
    by_accounts: bool = False

    def __post_init__(self) -> None:
        # A plain number: the arithmetic of flags takes a microsecond.
        msgspec.structs.force_setattr(self, "scopes", int(self.scopes))


ANY_KEY = Need(place="nowhere")
NO_KEY = Need(place="nowhere", is_open=True)


def everywhere(scopes: int) -> Need:
    """A scope that must be granted on all ledgers."""
    return Need(scopes, "everywhere")


def denial(caller: Caller, ledger: int, need: Need, *, is_named: bool = True) -> Denial | None:
    """Why a caller may not do what has this need, or None if it may.

    `is_named`: the path names the ledger.
    """
    if need.is_open:
        return None
    if caller.refusal is not None:
        return caller.refusal
    if need.place == "nowhere":
        return None
    on_all = need.place == "everywhere" or (need.place == "named" and not is_named)
    scopes = caller.everywhere if on_all else caller.scopes_on(ledger)
    if scopes & need.scopes:
        return signature_denial(caller) if need.is_signed else None
    if not on_all and ledger in caller.by_accounts:
        return _denial_by_accounts(caller.by_accounts[ledger], need)
    return "scope_missing" if on_all or scopes else "ledger_not_found"


def _denial_by_accounts(grants: Iterable[AccountGrant], need: Need) -> Denial | None:
    if not any(one.scopes & need.scopes for one in grants):
        return "scope_missing"
    return None if need.by_accounts else "limited_to_accounts"


def signature_denial(caller: Caller) -> Denial | None:
    """Why a caller may not do what must be signed, or None if it may.

    Whoever has a public key has signed the request, or it would have been refused before. Where no
    key is needed, no signature is.
    """
    return "signature_required" if caller.key_id and caller.public_key is None else None
