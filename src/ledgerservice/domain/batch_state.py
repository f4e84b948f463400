"""The state within a batch: accounts, holds and schedules as the earlier decisions left them."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from types import MappingProxyType

import msgspec

from ledgerservice.domain.accounts import Account
from ledgerservice.domain.instructions import Kind
from ledgerservice.domain.transactions import (
    DeclineReason,
    Entry,
    HoldState,
    Parents,
    Policy,
    Refusal,
    Transaction,
)


class AccountState:
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
        """The amount that the account can give."""
        return self.balance - self.held

    def as_recorded(self, recorded_at: datetime) -> Account:
        """The account once the batch is recorded, at that time."""
        account = self.account
        if self.version == account.version:
            return account
        return Account(
            account.id,
            account.currency,
            account.currency_number,
            account.exponent,
            self.balance,
            self.held,
            self.version,
            account.floor,
            recorded_at,
            account.ceiling,
            account.restricted,
        )

    def move(self, transaction_id: int, amount: int, held_change: int = 0) -> Entry:
        """Move the account and return its next entry."""
        account = self.account
        self.balance = balance = self.balance + amount
        self.held = held = self.held + held_change
        self.version = version = self.version + 1
        number = account.currency_number
        return Entry(
            account.id, version, transaction_id, number, amount, held_change, balance, held
        )

    def take_back(self, entry: Entry) -> None:
        """Undo the account's last entry."""
        self.balance -= entry.amount
        self.held -= entry.held_change
        self.version -= 1

    def refuse(self, reason: DeclineReason) -> Refusal:
        """A refusal with this account's state."""
        return Refusal(reason, self.account.id, self.version, self.available, self.balance)

    def change_policy(self, policy: Policy) -> None:
        """Put a policy into effect."""
        self.before += (self.account,)
        self.account = msgspec.structs.replace(
            self.account,
            floor=policy.floor,
            ceiling=policy.ceiling,
            restricted=policy.restricted,
        )

    def restore_policy(self) -> None:
        """Undo the last change of policy."""
        *earlier, self.account = self.before
        self.before = tuple(earlier)


NO_STATES: Mapping[int, AccountState] = MappingProxyType({})


class BatchState:
    """The accounts, and the state that instructions build on, within a batch.

    Whether something is due or has expired is judged by the clock, `now`, and not by the batch's
    `recorded_at`, which never runs backwards along an account: a clock that was ahead once and was
    put right would go on ending holds too early.
    """

    def __init__(
        self,
        accounts: Mapping[int, Account],
        parents: Parents,
        now: datetime,
        continued: Mapping[int, AccountState] = NO_STATES,
    ) -> None:
        """`continued` are states as the batch before leaves them; they go on from there."""
        self.accounts = {number: AccountState(account) for number, account in accounts.items()}
        self.accounts.update(continued)
        self.transactions = parents.transactions
        self.holds = dict(parents.holds)
        self.reversed = {number: dict(sums) for number, sums in parents.reversed.items()}
        self.open_schedules = set(parents.open_schedules)
        self.now = now

    def customer(self, account_id: int) -> AccountState | None:
        """The customer account of that id. External accounts cannot be named."""
        return self.accounts.get(account_id) if account_id > 0 else None

    def expired_holds(self) -> Iterator[HoldState]:
        """The holds that have ended and still count as held."""
        return (hold for hold in self.holds.values() if hold.has_expired(self.now))

    def apply(self, transaction: Transaction) -> None:
        """Carry a transaction's effects beyond its entries' accounts into the state."""
        extra = transaction.extra
        if extra is not None:
            self._follow(transaction, 1)
            for policy in extra.policies:
                self.accounts[policy.account_id].change_policy(policy)

    def revert(self, transaction: Transaction) -> None:
        """Undo the last transaction, its entries included."""
        extra = transaction.extra
        if extra is not None:
            self._follow(transaction, -1)
            for policy in extra.policies:
                self.accounts[policy.account_id].restore_policy()
        for entry in transaction.entries:
            self.accounts[entry.account_id].take_back(entry)

    def _follow(self, transaction: Transaction, sign: int) -> None:
        """Add (sign 1) or subtract (-1) what a transaction does to the one that it builds on."""
        parent = transaction.extra.parent_id if transaction.extra is not None else None
        if parent is None:
            return
        if transaction.kind in (Kind.TRANSFER, Kind.CANCELLATION):
            self._end_schedule(parent, transaction, sign)
        if transaction.kind is Kind.CROSSING:
            self._move_back(parent, transaction.account_id, sign * -transaction.amount)
            return
        for entry in transaction.entries:
            if entry.held_change:
                hold = self.holds[parent]
                remaining = hold.remaining + sign * entry.held_change
                self.holds[parent] = msgspec.structs.replace(hold, remaining=remaining)
            if transaction.kind is Kind.REVERSAL:
                self._move_back(parent, entry.account_id, sign * entry.amount)

    def _move_back(self, parent: int, account_id: int, amount: int) -> None:
        sums = self.reversed.setdefault(parent, {})
        sums[account_id] = sums.get(account_id, 0) + amount

    def _end_schedule(self, schedule: int, transaction: Transaction, sign: int) -> None:
        if transaction.kind is Kind.CANCELLATION and transaction.refusal is not None:
            return
        if sign > 0:
            self.open_schedules.discard(schedule)
        else:
            self.open_schedules.add(schedule)
