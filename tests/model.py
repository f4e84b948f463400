"""The ledger as plain dicts, one movement after another: what every faster way has to agree with.

Amounts are whole minor units. An account is named by its id, the external account of a currency by
the currency's code.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from ledgerservice.money import MAX_AMOUNT_MINOR, MAX_BALANCE_MINOR

Name = int | str


class Movement(NamedTuple):
    """What is asked for. `kind` is DEPOSIT, WITHDRAWAL or TRANSFER; the last names an `other`."""

    kind: str
    account: int
    other: int | None
    amount: int
    key: str


class Line(NamedTuple):
    """One line of an account's history; the version is its place, from 1."""

    kind: str
    key: str
    change: int
    balance: int


class Answer(NamedTuple):
    """`posted`, or the code of the refusal, and whether it is the repeat of an earlier answer."""

    code: str
    replayed: bool = False


DECLINES = {"insufficient_funds", "balance_limit"}


@dataclass
class SequentialLedger:
    """Accounts with their currency, the lines of each, and the outcome of each (account, key)."""

    currencies: dict[int, str] = field(default_factory=dict)
    lines: dict[Name, list[Line]] = field(default_factory=lambda: defaultdict(list))
    outcomes: dict[tuple[int, str], tuple[Movement, str]] = field(default_factory=dict)

    def balance(self, name: Name) -> int:
        return self.lines[name][-1].balance if self.lines[name] else 0

    def move(self, movement: Movement) -> Answer:
        """Judge in the written order: syntax, key seen, existence, currency, amount, state."""
        _, account, other, amount, key = movement
        if account == other:
            return Answer("same_account")
        if (account, key) in self.outcomes:
            first, code = self.outcomes[account, key]
            return Answer(code, True) if first == movement else Answer("idempotency_key_reused")
        if not {account, account if other is None else other} <= self.currencies.keys():
            return Answer("account_not_found")
        if other is not None and self.currencies[account] != self.currencies[other]:
            return Answer("currency_mismatch")
        if amount > MAX_AMOUNT_MINOR:
            return Answer("amount_limit")
        code = self._settle(movement, self.currencies[account] if other is None else other)
        self.outcomes[account, key] = movement, code
        return Answer(code)

    def _settle(self, movement: Movement, other: Name) -> str:
        change = movement.amount if movement.kind == "DEPOSIT" else -movement.amount
        after = {name: self.balance(name) for name in (movement.account, other)}
        after[movement.account] += change
        after[other] -= change
        if after[movement.account] < 0:
            return "insufficient_funds"
        if max(map(abs, after.values())) > MAX_BALANCE_MINOR:
            return "balance_limit"
        for name, balance in after.items():
            signed = change if name == movement.account else -change
            self.lines[name].append(Line(movement.kind, movement.key, signed, balance))
        return "posted"
