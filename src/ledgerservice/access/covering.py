"""Grants that are limited to accounts: what they cover, and what is shown of the rest. Pure."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import NamedTuple

import msgspec

from ledgerservice.domain.instructions import (
    General,
    Hold,
    Instruction,
    Kind,
    Movement,
    PolicyChange,
    Schedule,
)


class AccountGrant(msgspec.Struct, frozen=True):
    """Scopes on some accounts of a ledger.

    `accounts` are shown, and their policies changed; money is taken out of those of `debit_from`
    and put into those of `credit_to`. `most` has the largest amount of an instruction by currency;
    if it has any, other currencies are not moved. `currencies` are those of all these accounts.
    """

    scopes: int
    accounts: frozenset[int]
    debit_from: frozenset[int]
    credit_to: frozenset[int]
    most: Mapping[str, Decimal]
    currencies: Mapping[int, str]

    def outside(self, instruction: Instruction) -> int | None:
        """An account of the instruction that is not covered, or None."""
        for use in _uses(instruction):
            if use.account_id not in getattr(self, use.part):
                return use.account_id
        return None

    def is_too_much(self, instruction: Instruction) -> bool:
        """Whether it moves more than the grant allows, or another currency."""
        return bool(self.most) and any(
            use.amount is not None and not self._is_enough(use) for use in _uses(instruction)
        )

    def _is_enough(self, use: "_Use") -> bool:
        most = self.most.get(self.currencies.get(use.account_id, ""))
        return most is not None and abs(Decimal(use.amount or "0")) <= most


def can_judge(instruction: Instruction) -> bool:
    """Whether all accounts of an instruction are in it. Those that build on another name none."""
    return isinstance(instruction, (Movement, General, Hold, Schedule, PolicyChange))


class _Use(NamedTuple):
    """An account in an instruction, the part of a grant that it needs, and what is moved."""

    account_id: int
    part: str
    amount: str | None


_DEBIT, _CREDIT, _SHOWN = "debit_from", "credit_to", "accounts"


def _uses(instruction: Instruction) -> Iterator[_Use]:
    if isinstance(instruction, General):
        yield from _uses_of_legs(instruction)
    elif isinstance(instruction, PolicyChange):
        yield _Use(instruction.account_id, _SHOWN, None)
    elif isinstance(instruction, (Movement, Hold, Schedule)):
        is_deposit = isinstance(instruction, Movement) and instruction.kind is Kind.DEPOSIT
        part = _CREDIT if is_deposit else _DEBIT
        yield _Use(instruction.account_id, part, instruction.amount)
        if instruction.counterparty_id is not None:
            yield _Use(instruction.counterparty_id, _CREDIT, instruction.amount)


def _uses_of_legs(instruction: General) -> Iterator[_Use]:
    for leg in instruction.legs:
        part = _DEBIT if leg.amount.startswith("-") else _CREDIT
        yield _Use(leg.account_id, part, leg.amount)
        # Whether a condition holds says something of the account.
        if (leg.available_at_least, leg.balance_at_least, leg.version) != (None, None, None):
            yield _Use(leg.account_id, _SHOWN, None)
    exchange = instruction.exchange
    if exchange is not None and exchange.rounding_account_id is not None:
        for part in (_DEBIT, _CREDIT):
            yield _Use(exchange.rounding_account_id, part, None)
