"""The accounts, and what instructions build on, as they stand within a batch."""

from collections.abc import Iterator, Mapping
from datetime import datetime

import msgspec

from ledgerservice.domain.instructions import Kind
from ledgerservice.domain.transactions import (
    Account,
    Decline,
    Entry,
    HoldState,
    Parents,
    Refusal,
    Transaction,
)


class Live:
    """An account's state within a batch."""

    __slots__ = ("account", "balance", "before", "held", "version")

    def __init__(self, account: Account) -> None:
        self.account = account
        self.balance = account.balance
        self.held = account.held
        self.version = account.version
        self.before: tuple[Account, ...] = ()

    @property
    def available(self) -> int:
        """What the account can give."""
        return self.balance - self.held

    def move(self, transaction_id: int, amount: int, held_change: int = 0) -> Entry:
        """The account's next entry; the account moves with it."""
        account = self.account
        self.balance = balance = self.balance + amount
        self.held = held = self.held + held_change
        self.version = version = self.version + 1
        number = account.currency_number
        return Entry(
            account.id, version, transaction_id, number, amount, held_change, balance, held
        )

    def refuse(self, reason: Decline) -> Refusal:
        """A refusal that tells this account's state."""
        return Refusal(reason, self.account.id, self.version, self.available, self.balance)


class Book:
    """The accounts, and what instructions build on, as they stand within a batch.

    What is due or expired is so by the clock, `now`, and not by the moment of recording, which is
    after all that was recorded on the accounts: a clock that was ahead once, and was put right,
    would otherwise go on ending holds, on every account that met one of that time.
    """

    def __init__(self, accounts: Mapping[int, Account], parents: Parents, now: datetime) -> None:
        self.accounts = {number: Live(account) for number, account in accounts.items()}
        self.transactions = parents.transactions
        self.holds = dict(parents.holds)
        self.reversed = {number: dict(sums) for number, sums in parents.reversed.items()}
        self.open_schedules = set(parents.open_schedules)
        self.now = now

    def customer(self, account_id: int) -> Live | None:
        """The customer's account of that id; an external one is not to be named."""
        return self.accounts.get(account_id) if account_id > 0 else None

    def expired(self) -> Iterator[HoldState]:
        """Holds that still reserve something, though their time is over."""
        for hold in self.holds.values():
            if hold.has_expired(self.now):
                yield hold

    def follow(self, transaction: Transaction, way: int) -> None:
        """Do (way 1) or undo (-1) what a transaction does beyond its entries' own accounts."""
        extra = transaction.extra
        if extra is None:
            return
        parent = transaction.id if extra.parent_id is None else extra.parent_id
        if transaction.kind in (Kind.TRANSFER, Kind.CANCELLATION) and parent != transaction.id:
            self._settle(parent, transaction, way)
        for entry in transaction.entries:
            if entry.held_change and parent in self.holds:
                hold = self.holds[parent]
                remaining = hold.remaining + way * entry.held_change
                self.holds[parent] = msgspec.structs.replace(hold, remaining=remaining)
            if transaction.kind is Kind.REVERSAL:
                sums = self.reversed.setdefault(parent, {})
                sums[entry.account_id] = sums.get(entry.account_id, 0) + way * entry.amount
        for policy in extra.policies:
            live = self.accounts[policy.account_id]
            if way < 0:
                *earlier, live.account = live.before
                live.before = tuple(earlier)
                continue
            live.before += (live.account,)
            limits = {"floor": policy.floor, "ceiling": policy.ceiling}
            changed = {**limits, "restricted": policy.restricted}
            live.account = msgspec.structs.replace(live.account, **changed)

    def _settle(self, schedule: int, transaction: Transaction, way: int) -> None:
        if transaction.kind is Kind.CANCELLATION and transaction.refusal is not None:
            return
        if way > 0:
            self.open_schedules.discard(schedule)
        else:
            self.open_schedules.add(schedule)
