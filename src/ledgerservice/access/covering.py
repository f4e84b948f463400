"""Grants that are limited to accounts: what they cover, and what is shown of the rest. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple, Self

import msgspec

from ledgerservice.domain.instructions import (
    Cancellation,
    Capture,
    CrossCredit,
    General,
    Instruction,
    Kind,
    Leg,
    Movement,
    PolicyChange,
    Release,
    Reversal,
    Step,
)


class Use(NamedTuple):
    """An account in an instruction, the part of a grant that it needs, and what is moved."""

    account_id: int
    part: str
    amount: str | None


DEBIT, CREDIT, _SHOWN = "debit_from", "credit_to", "accounts"
Uses = Sequence[Use]
Parent = tuple[str, int]
"""What an instruction builds on: holds, schedules or transactions, and the id."""
Parents = Mapping[Parent, Uses]
"""What was found of these, and what it moves when it is captured, executed or reversed."""
Currencies = Mapping[str, str]
"""The currencies of accounts by their ids, as JSON has them."""
NO_PARENTS: Parents = MappingProxyType({})


class AccountGrant(msgspec.Struct, frozen=True):
    """Scopes on some accounts of a ledger.

    `accounts` are shown, and their policies changed; money is taken out of those of `debit_from`
    and put into those of `credit_to`. `most` has the largest amount of an instruction by currency;
    if it has any, other currencies are not moved. `currencies` are those of all these accounts.
    `owner`: the accounts of this one are among those that are shown.
    """

    scopes: int
    accounts: frozenset[int]
    debit_from: frozenset[int]
    credit_to: frozenset[int]
    most: Mapping[str, Decimal]
    currencies: Mapping[int, str]
    owner: str | None = None

    @classmethod
    def of(
        cls,
        scopes: int,
        accounts: Iterable[int],
        debit_from: Iterable[int] | None,
        credit_to: Iterable[int] | None,
        max_amounts: Mapping[str, str] | None,
        currencies: Currencies | None,
        owned: Currencies | None,
        owner: str | None,
    ) -> Self:
        """A grant as it is stored. `currencies` are those of the accounts that it names, `owned`
        those of the accounts of its owner. Without `debit_from` or `credit_to` they are those that
        are shown.
        """
        of_owner = _numbered(owned)
        shown = frozenset(accounts) | of_owner.keys()
        return cls(
            scopes,
            shown,
            shown if debit_from is None else frozenset(debit_from),
            shown if credit_to is None else frozenset(credit_to),
            {code: Decimal(text) for code, text in (max_amounts or {}).items()},
            _numbered(currencies) | of_owner,
            owner,
        )

    def outside(self, uses: Uses) -> int | None:
        """An account of these uses that is not covered, or None."""
        for use in uses:
            if use.account_id not in getattr(self, use.part):
                return use.account_id
        return None

    def is_too_much(self, uses: Uses) -> bool:
        """Whether more is moved than the grant allows, or another currency.

        What is taken out of the accounts of a currency counts together, and what is put into them.
        """
        if not self.most:
            return False
        sums: dict[tuple[str, str], Decimal] = {}
        for use in uses:
            if use.amount is not None:
                place = use.part, self.currencies.get(use.account_id, "")
                sums[place] = sums.get(place, Decimal(0)) + abs(Decimal(use.amount))
        return any(
            currency not in self.most or amount > self.most[currency]
            for (_, currency), amount in sums.items()
        )


def _numbered(currencies: Currencies | None) -> dict[int, str]:
    return {int(number): code for number, code in (currencies or {}).items()}


def all_accounts(grants: Sequence[AccountGrant]) -> frozenset[int]:
    """The accounts that these grants show."""
    if len(grants) == 1:  # thousands of accounts are not copied
        return grants[0].accounts
    return frozenset[int]().union(*(one.accounts for one in grants))


_TABLES: dict[type[Instruction], str] = {
    Capture: "holds",
    Release: "holds",
    Cancellation: "schedules",
    Reversal: "transactions",
}


def parent_of(instruction: Instruction) -> Parent | None:
    """What a caller's instruction builds on, or None."""
    table = _TABLES.get(type(instruction))
    return (table, instruction.parent_id) if table and isinstance(instruction, Step) else None


def uses_of(instruction: Instruction, parents: Parents) -> Uses | None:
    """The accounts of an instruction; None if what it builds on is not among `parents`."""
    if isinstance(instruction, Step):
        parent = parent_of(instruction)
        moved = None if parent is None else parents.get(parent)
        return None if moved is None else _uses_of_step(instruction, moved)
    if isinstance(instruction, General):
        return [*_uses_of_legs(instruction.legs), *_uses_of_rounding(instruction)]
    if isinstance(instruction, PolicyChange):
        return [Use(instruction.account_id, _SHOWN, None)]
    assert not isinstance(instruction, CrossCredit), "callers do not give it"
    is_deposit = isinstance(instruction, Movement) and instruction.kind is Kind.DEPOSIT
    own = Use(instruction.account_id, CREDIT if is_deposit else DEBIT, instruction.amount)
    other = instruction.counterparty_id
    return [own] if other is None else [own, Use(other, CREDIT, instruction.amount)]


def _uses_of_step(step: Step, moved: Uses) -> Uses:
    """All accounts of what it builds on are needed, whatever part of it is moved."""
    if isinstance(step, (Release, Cancellation)):  # they move nothing
        return [use._replace(amount=None) for use in moved]
    if isinstance(step, Reversal) and step.legs is not None:
        return [*(use._replace(amount=None) for use in moved), *_uses_of_legs(step.legs)]
    if isinstance(step, (Capture, Reversal)) and step.amount is not None:
        return [use._replace(amount=step.amount) for use in moved]
    return moved


def _uses_of_legs(legs: Iterable[Leg]) -> Iterator[Use]:
    for leg in legs:
        part = DEBIT if leg.amount.startswith("-") else CREDIT
        yield Use(leg.account_id, part, leg.amount)
        # Whether a condition holds says something of the account.
        if (leg.available_at_least, leg.balance_at_least, leg.version) != (None, None, None):
            yield Use(leg.account_id, _SHOWN, None)


def _uses_of_rounding(instruction: General) -> Iterator[Use]:
    exchange = instruction.exchange
    if exchange is not None and exchange.rounding_account_id is not None:
        for part in (DEBIT, CREDIT):
            yield Use(exchange.rounding_account_id, part, None)
