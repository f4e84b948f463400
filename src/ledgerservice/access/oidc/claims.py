"""What the claims of a token allow: a file in TOML that says which value gives which scopes.

[[grants]]
claim = "groups"            # or a path: "realm_access.roles"
value = "ledger-auditors"
role = ["auditor"]          # as `keys create --role`
scope = ["webhooks"]        # as `keys create --scope`
ledger = ["eu"]             # absent: all ledgers
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ledgerservice.access.grants import Caller
from ledgerservice.access.scopes import NAMES, SETS
from ledgerservice.errors import ConfigurationError

TEXT_LISTS = frozenset({"scope", "scp"})
"""The claims whose text is a list with blanks (RFC 8693, section 4.2)."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value of a claim, and what it gives."""

    claim: str
    value: str
    role: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()
    ledger: tuple[str, ...] | None = None

    @property
    def scopes(self) -> int:
        """The sum of its scopes. Raises KeyError."""
        roles, scopes = [SETS[one] for one in self.role], [NAMES[one] for one in self.scope]
        total = 0
        for one in (*roles, *scopes):
            total |= int(one)
        return total

    def holds(self, claims: Mapping[str, Any]) -> bool:
        """Whether the claims have the value."""
        return self.value in _texts(self.claim, _claim(claims, self.claim))


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    grants: tuple[Rule, ...]


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of a file. Raises ConfigurationError."""
    try:
        rules = msgspec.toml.decode(path.read_bytes(), type=_File).grants
        empty = [rule for rule in rules if not rule.scopes or rule.ledger == ()]
    except OSError as error:
        raise ConfigurationError(f"LEDGER_OIDC_GRANTS: {path}: {error.strerror}.") from None
    except KeyError as error:
        raise ConfigurationError(f"LEDGER_OIDC_GRANTS: {error} is no scope or role.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"LEDGER_OIDC_GRANTS: {path}: {error}.") from None
    if empty:
        raise ConfigurationError(f"LEDGER_OIDC_GRANTS: {empty[0]} gives nothing.")
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
    rules: Iterable[Rule], key_id: str, principal_id: int, ledger_ids: Mapping[str, int]
) -> Caller:
    """A caller with what the rules give, on those of their ledgers that exist."""
    everywhere, by_ledger, ledgers = 0, dict[int, int](), dict[str, int]()
    for rule in rules:
        if rule.ledger is None:
            everywhere |= rule.scopes
            continue
        for name in rule.ledger:
            if (number := ledger_ids.get(name)) is not None:
                by_ledger[number] = by_ledger.get(number, 0) | rule.scopes
                ledgers[name] = number
    return Caller(key_id, principal_id, everywhere, by_ledger, ledgers)
