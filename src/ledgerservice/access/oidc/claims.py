"""What the claims of a token allow: a file in TOML that says which value gives which scopes.

[[grants]]
claim = "groups"            # or a path: "realm_access.roles"
value = "ledger-auditors"
role = ["auditor"]          # as `keys create --role`
scope = ["webhooks"]        # as `keys create --scope`
ledger = ["eu"]             # absent: all ledgers
account = [17]              # these five as the options of `keys create`: a grant that is limited to
owner = "Alice"             # accounts of one ledger
debit_from = [17]
credit_to = [17, 18]
max_amount = { EUR = "100.00" }

[[limits]]                  # the first whose value a token has
claim = "groups"
value = "tellers"
rate = 10                   # these five as the options of `keys create`
burst = 20
queue_share = 0.1
streams = 2
body_bytes_s = 100000
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ledgerservice.access.covering import AccountGrant, Currencies
from ledgerservice.access.grants import Caller
from ledgerservice.access.scopes import NAMES, SETS
from ledgerservice.domain.amounts import is_positive_amount
from ledgerservice.domain.instructions import BIGGEST_ID
from ledgerservice.domain.ledgers import is_ledger_name
from ledgerservice.errors import ConfigurationError
from ledgerservice.postgres.access.limits import KeyLimits

TEXT_LISTS = frozenset({"scope", "scp"})
"""The claims whose text is a list with blanks (RFC 8693, section 4.2)."""
MOST = 10**9

_Ids = tuple[Annotated[int, Meta(ge=1, le=BIGGEST_ID)], ...]
_Count = Annotated[int, Meta(ge=0, le=MOST)]


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value of a claim."""

    claim: str
    value: str

    def holds(self, claims: Mapping[str, Any]) -> bool:
        """Whether the claims have the value."""
        return self.value in _texts(self.claim, _claim(claims, self.claim))


class Rule(Condition, frozen=True, forbid_unknown_fields=True):
    """A value of a claim, and what it gives. With one of the fields from `account` on it is limited
    to accounts.
    """

    role: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()
    ledger: tuple[str, ...] | None = None
    account: _Ids | None = None
    owner: Annotated[str, Meta(min_length=1)] | None = None
    debit_from: _Ids | None = None
    credit_to: _Ids | None = None
    max_amount: dict[str, str] | None = None

    @property
    def scopes(self) -> int:
        """The sum of its scopes."""
        total = 0
        for one in (*(SETS[name] for name in self.role), *(NAMES[name] for name in self.scope)):
            total |= int(one)
        return total

    @property
    def is_limited(self) -> bool:
        """Whether it is limited to accounts."""
        named = self.account, self.owner, self.debit_from, self.credit_to
        return any(one is not None for one in named)

    @property
    def named_accounts(self) -> set[int]:
        """Every account that it names."""
        return {*(self.account or ()), *(self.debit_from or ()), *(self.credit_to or ())}

    def account_grant(
        self, currencies: Currencies | None, owned: Currencies | None
    ) -> AccountGrant:
        """What it gives. `currencies` are those of the accounts that it names and that exist,
        `owned` those of the accounts of its owner.
        """
        return AccountGrant.of(
            self.scopes,
            self.account or (),
            self.debit_from,
            self.credit_to,
            self.max_amount,
            currencies,
            owned,
            self.owner,
        )

    def fault(self) -> tuple[str, str] | None:
        """A field that is not valid, and why; or None."""
        for field, names, known in (("role", self.role, SETS), ("scope", self.scope, NAMES)):
            for name in names:
                if name not in known:
                    return field, f"{name!a} is no scope or role"
        if not self.scopes:
            return "scope", "it gives nothing; say what with role or scope"
        if self.ledger == ():
            return "ledger", "it gives nothing; without it the grant is on all ledgers"
        for name in self.ledger or ():
            if not is_ledger_name(name):
                return "ledger", f"{name!a} is not a valid name of a ledger"
        return self._fault_of_accounts()

    def _fault_of_accounts(self) -> tuple[str, str] | None:
        if not self.is_limited:
            needed = "needs account, owner, debit_from or credit_to"
            return None if self.max_amount is None else ("max_amount", needed)
        if self.ledger is None or len(self.ledger) != 1:
            return "ledger", "a grant that is limited to accounts names one ledger"
        if not self.named_accounts and self.owner is None:
            return "account", "it gives nothing"
        if self.owner is not None and "\0" in self.owner:
            return "owner", "an owner has no NUL"
        return None if self.max_amount is None else self._fault_of_amounts(self.max_amount)

    @staticmethod
    def _fault_of_amounts(amounts: Mapping[str, str]) -> tuple[str, str] | None:
        if not amounts:
            return "max_amount", "it names no currency; leave it out if there is no limit"
        for code, amount in amounts.items():
            if not is_positive_amount(amount):
                return f"max_amount.{code}", f"{amount!a} is not an amount, such as '100.00'"
        return None


class LimitRule(Condition, frozen=True, forbid_unknown_fields=True):
    """A value of a claim, and the limits of whoever has it. None: those of the settings."""

    rate: Annotated[float, Meta(ge=0, le=MOST)] | None = None
    burst: _Count | None = None
    queue_share: Annotated[float, Meta(ge=0, le=1)] | None = None
    streams: _Count | None = None
    body_bytes_s: Annotated[int, Meta(ge=0, le=10**15)] | None = None

    def limits(self) -> KeyLimits:
        """The limits as those of a key."""
        return KeyLimits(*(getattr(self, name) for name in KeyLimits.__struct_fields__))


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file says."""

    grants: tuple[Rule, ...]
    limits: tuple[LimitRule, ...] = ()

    def limits_of(self, claims: Mapping[str, Any]) -> KeyLimits:
        """The limits of the first rule that holds."""
        return next((one.limits() for one in self.limits if one.holds(claims)), KeyLimits())

    def places(self, claims: Mapping[str, Any]) -> tuple[int, ...]:
        """The places of the grants that hold."""
        return tuple(n for n, rule in enumerate(self.grants) if rule.holds(claims))


def read_rules(path: Path) -> Rules:
    """The rules of a file. Raises ConfigurationError, which names the field."""
    try:
        rules = msgspec.toml.decode(path.read_bytes(), type=Rules)
    except OSError as error:
        raise ConfigurationError(f"LEDGER_OIDC_GRANTS: {path}: {error.strerror}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"LEDGER_OIDC_GRANTS: {path}: {error}.") from None
    for place, rule in enumerate(rules.grants):
        if (fault := rule.fault()) is not None:
            field, text = fault
            raise ConfigurationError(f"LEDGER_OIDC_GRANTS: {path}: {text} - at "
                                     f"`$.grants[{place}].{field}`.")  # fmt: skip
    for place, limit in enumerate(rules.limits):
        if limit.limits() == KeyLimits():
            raise ConfigurationError(f"LEDGER_OIDC_GRANTS: {path}: it limits nothing - at "
                                     f"`$.limits[{place}]`.")  # fmt: skip
    return rules


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by the path to it."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _texts(name: str, value: Any) -> Iterable[str]:
    if isinstance(value, str):
        return value.split() if name in TEXT_LISTS else [value]
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def caller_by(
    rules: Sequence[Rule],
    places: Iterable[int],
    ledger_ids: Mapping[str, int],
    account_grants: Mapping[int, AccountGrant],
) -> Caller:
    """A caller with what the rules at these places give, on those of their ledgers that exist.

    `account_grants` are those of the rules that are limited to accounts, by their places.
    """
    everywhere, by_ledger, ledgers = 0, dict[int, int](), dict[str, int]()
    by_accounts: dict[int, tuple[AccountGrant, ...]] = {}
    for place in places:
        rule = rules[place]
        if rule.ledger is None:
            everywhere |= rule.scopes
            continue
        for name in rule.ledger:
            if (number := ledger_ids.get(name)) is None:
                continue
            if not rule.is_limited:
                by_ledger[number] = by_ledger.get(number, 0) | rule.scopes
            elif (grant := account_grants.get(place)) is not None:
                by_accounts[number] = (*by_accounts.get(number, ()), grant)
            else:
                continue
            ledgers[name] = number
    return Caller(
        everywhere=everywhere, by_ledger=by_ledger, ledgers=ledgers, by_accounts=by_accounts
    )
