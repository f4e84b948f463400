"""The form of keys, and the named sets of scopes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerservice.access import keys
from ledgerservice.access.grants import ANY_KEY, EVERYONE, NO_KEY, STRANGER, Caller, Need, denial
from ledgerservice.access.grants import everywhere as on_all
from ledgerservice.access.scopes import ALL, NAMES, SETS, Scope, names_of

FORM = re.compile(r"lgk_[0-9a-z]{12}_[0-9A-Za-z]{49}")


def test_a_key_has_an_id_a_secret_and_a_checksum() -> None:
    one, other = keys.make(), keys.make()
    assert FORM.fullmatch(one.text) and keys.id_of(one.text) == one.id
    assert one.id != other.id and one.text[17:] != other.text[17:]
    assert one.digest == keys.digest_of(one.text.encode()) != other.digest
    assert 62**keys.SECRET_CHARACTERS >= 2**256


@given(place=st.integers(0, 65), digit=st.sampled_from("0aZ_-9"))
def test_a_key_with_another_character_is_not_a_key(place: int, digit: str) -> None:
    text = "lgk_0123456789ab_" + "k" * 43
    key = text + "".join(keys._checksum(text))
    assert keys.id_of(key) == "0123456789ab"
    changed = key[:place] + digit + key[place + 1 :]
    assert (keys.id_of(changed) is None) == (changed != key)


@pytest.mark.parametrize("text", ["", "lgk_", "x" * 66, "lgk_0123456789ab_" + "é" * 49])
def test_another_text_is_not_a_key(text: str) -> None:
    assert keys.id_of(text) is None


def test_the_bits_of_scopes_are_frozen() -> None:
    """They are stored in the database."""
    assert list(NAMES) == [
        "accounts:read", "accounts:open", "transactions:read", "reports:read", "events:read",
        "deposit", "withdraw", "transfer", "transactions", "holds", "schedules", "reversals",
        "policies:freeze", "policies:write", "reversals:force", "backdate", "currencies:write",
        "ledgers:write", "audit:read", "approvals:decide", "metrics:read", "verify:run",
        "webhooks",
    ]  # fmt: skip
    assert [int(scope) for scope in NAMES.values()] == [1 << bit for bit in range(len(NAMES))]
    assert names_of(ALL) == list(NAMES)


def test_only_an_admin_may_force_and_only_some_may_backdate() -> None:
    assert [name for name, scopes in SETS.items() if scopes & Scope.REVERSALS_FORCE] == ["admin"]
    assert [name for name, scopes in SETS.items() if scopes & Scope.BACKDATE] == [
        "operator", "admin",
    ]  # fmt: skip


READS = Need(Scope.ACCOUNTS_READ)
ON_TWO = Caller("k", 5, by_ledger={2: int(Scope.ACCOUNTS_READ)})
DENIALS = [
    (EVERYONE, 7, READS, None),
    (EVERYONE, 7, on_all(Scope.LEDGERS_WRITE), None),
    (STRANGER, 1, READS, "key_missing"),
    (STRANGER, 1, ANY_KEY, "key_missing"),
    (STRANGER, 1, NO_KEY, None),
    (ON_TWO, 2, READS, None),
    (ON_TWO, 2, Need(Scope.ACCOUNTS_READ | Scope.DEPOSIT), None),
    (ON_TWO, 2, Need(Scope.DEPOSIT), "scope_missing"),
    (ON_TWO, 1, READS, "ledger_not_found"),
    (ON_TWO, 1, ANY_KEY, None),
    (ON_TWO, 2, on_all(Scope.ACCOUNTS_READ), "scope_missing"),
]


@pytest.mark.parametrize(("caller", "ledger", "need", "code"), DENIALS)
def test_what_a_caller_may_do(caller: Caller, ledger: int, need: Need, code: str | None) -> None:
    assert denial(caller, ledger, need) == code
