"""The marketplace while its month is made: its accounts, and what can be spent from each."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from random import Random
from typing import Any

from ledgerservice.cli.marketplace.people import EXPONENTS, Party, opening_of, parties
from ledgerservice.domain.accounts import Opened
from ledgerservice.domain.amounts import to_major
from ledgerservice.domain.instructions import Detail, Instruction
from ledgerservice.domain.transactions import Recorded, Transaction
from ledgerservice.ledger import Ledger

INCIDENTS = 6
"""The first buyers and sellers in each currency are kept for the incidents of the month."""


class Market:
    """A ledger, a source of chance, and what is known of the accounts. Amounts are minor units.

    `available` is what each account can spend after the instructions that are planned. `orders`
    are the payments that can be refunded, `bookings` the holds that can be captured; `remaining`
    has what is left of each.
    """

    def __init__(self, ledger: Ledger, random: Random) -> None:
        self.ledger = ledger
        self.random = random
        self.currency_of: dict[int, str] = {}
        self.available: dict[int, int] = defaultdict(int)
        self.orders: list[Transaction] = []
        self.bookings: list[Transaction] = []
        self.remaining: dict[int, int] = {}
        self.numbers: dict[str, int] = defaultdict(lambda: 1000)
        self._accounts: dict[tuple[str, str], list[int]] = defaultdict(list)

    async def open(self) -> None:
        """Open the accounts."""
        everybody = parties(self.random)
        answers = await self.ledger.open_accounts([opening_of(one) for one in everybody])
        for party, opened in zip(everybody, answers, strict=True):
            assert isinstance(opened, Opened)
            self._add(party, opened.account_id)

    def _add(self, party: Party, account_id: int) -> None:
        self._accounts[party.role, party.currency].append(account_id)
        self.currency_of[account_id] = party.currency

    async def post(self, instructions: Sequence[Instruction]) -> list[Transaction]:
        """What was recorded of them, in order: each is posted or declined."""
        recorded = []
        for outcome in await self.ledger.post(instructions):
            assert isinstance(outcome, Recorded), outcome
            self._note(outcome.transaction)
            recorded.append(outcome.transaction)
        return recorded

    def _note(self, transaction: Transaction) -> None:
        for entry in transaction.entries:
            self.available[entry.account_id] = entry.balance - entry.held
        if transaction.refusal is None and transaction.key.startswith("order-"):
            self.orders.append(transaction)
        if transaction.refusal is None and transaction.key.startswith("booking-"):
            self.bookings.append(transaction)
            self.remaining[transaction.id] = transaction.amount

    def office(self, name: str, currency: str) -> int:
        """The marketplace's own account of that name."""
        return self._accounts[name, currency][0]

    def buyer(self, currency: str, incident: int | None = None) -> int:
        """A buyer by chance, or the one that an incident is about."""
        return self._party("buyer", currency, incident)

    def seller(self, currency: str, incident: int | None = None) -> int:
        """A seller by chance, or the one that an incident is about."""
        return self._party("seller", currency, incident)

    def _party(self, role: str, currency: str, incident: int | None) -> int:
        accounts = self._accounts[role, currency]
        if incident is not None:
            return accounts[incident]
        return self.random.choice(accounts[INCIDENTS if currency == "USD" else 0 :])

    def currency(self) -> str:
        """A currency by chance."""
        [code] = self.random.choices(list(EXPONENTS), [45, 33, 14, 8])
        return code

    def amount(self, low: int, high: int) -> int:
        """An amount by chance, between two that are in dollars, euros, pounds or 100 yen."""
        return self.random.randint(low * 100, high * 100)

    def text(self, account_id: int, minor: int) -> str:
        """An amount of an account as instructions have it."""
        return to_major(minor, EXPONENTS[self.currency_of[account_id]])

    def next_key(self, name: str) -> str:
        """A key of its own, such as order-1001."""
        self.numbers[name] += 1
        return f"{name}-{self.numbers[name]}"


def detail(at: datetime, description: str, reference: str | None = None, **metadata: Any) -> Detail:
    """The texts of a transaction that takes effect at a time of the month."""
    return Detail(description, reference, at, metadata or None)
