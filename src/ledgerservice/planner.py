"""The rules about money, as pure functions: no clock, no randomness, no input or output.

A batch of movements is decided one after another, in order, against the states of the accounts
it locked. Each decision sees the ones before it: a debit may be funded by an earlier credit, and
the same key twice is one movement and one replay. Of a linked group all are posted or none; what
it did is taken back before the next group is decided. The result says which rows to write.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from operator import attrgetter

import msgspec

from ledgerservice.model import (
    Account,
    Currency,
    Decline,
    Entry,
    Failed,
    Group,
    Kind,
    Movement,
    Opened,
    Opening,
    Outcome,
    Outcomes,
    Recorded,
    Refusal,
    Reject,
    Rejected,
    Transaction,
    is_key,
)
from ledgerservice.money import MAX_AMOUNT_MINOR, MAX_BALANCE_MINOR, is_same_amount, to_minor

RENDERER = 1
"""The version of the answer's form that new transactions are stored with."""

Key = tuple[int, str]

_account_id = attrgetter("account_id")


class Plan(msgspec.Struct, frozen=True):
    """What a batch decides: an answer a group, in order, and the transactions to write."""

    answers: list[Outcomes]
    transactions: list[Transaction]
    recorded_at: datetime

    def entries(self) -> list[Entry]:
        """All entries to write, by account, each account's in the order of its seq."""
        rows = [entry for transaction in self.transactions for entry in transaction.entries]
        rows.sort(key=_account_id)
        return rows


def plan(
    groups: Iterable[Group],
    accounts: Mapping[int, Account],
    earlier: Mapping[Key, Transaction],
    now: datetime,
    ids: Iterator[int],
) -> Plan:
    """Decide the movements of `groups` in order.

    `accounts` holds the locked state of every account they name that exists, with the external
    accounts of their currencies; `earlier` the recorded outcomes of their keys; `now` a clock
    reading taken after the locks; `ids` unused transaction ids.
    """
    recorded_at = max([now, *(account.last_recorded_at for account in accounts.values())])
    batch = _Batch(accounts, earlier, recorded_at, ids)
    answers = [batch.decide_group(group) for group in groups]
    return Plan(answers, batch.transactions, recorded_at)


class _Live:
    """An account's state within a batch."""

    __slots__ = ("account", "balance", "version")

    def __init__(self, account: Account) -> None:
        self.account = account
        self.balance = account.balance
        self.version = account.version


class _Batch:
    """The accounts and records as they stand within a batch."""

    def __init__(
        self,
        accounts: Mapping[int, Account],
        earlier: Mapping[Key, Transaction],
        recorded_at: datetime,
        ids: Iterator[int],
    ) -> None:
        self._accounts = {number: _Live(account) for number, account in accounts.items()}
        self._records = dict(earlier)
        self._recorded_at = recorded_at
        self._ids = ids
        self.transactions: list[Transaction] = []

    def decide_group(self, group: Group) -> Outcomes:
        """Each movement for itself, or, if they are linked, all or none."""
        if not group.linked:
            return [self.decide(movement) for movement in group.movements]
        before = len(self.transactions)
        outcomes: list[Outcome] = []
        for index, movement in enumerate(group.movements):
            outcome = self.decide(movement)
            if not outcome.posted:
                self._undo(before)
                return Failed(index, outcome)
            outcomes.append(outcome)
        return outcomes

    def _undo(self, kept: int) -> None:
        """Take back all transactions but the first `kept`."""
        for transaction in reversed(self.transactions[kept:]):
            del self._records[transaction.account_id, transaction.key]
            for entry in transaction.entries:
                live = self._accounts[entry.account_id]
                live.balance -= entry.amount
                live.version -= 1
        del self.transactions[kept:]

    def decide(self, movement: Movement) -> Outcome:
        """Judge in the written order: syntax, key seen, existence, currency, state."""
        if movement.account_id == movement.counterparty_id:
            return Rejected(Reject.SAME_ACCOUNT, movement.account_id)
        seen = self._records.get((movement.account_id, movement.key))
        if seen is not None:
            return _repeat(seen, movement)
        own = self._customer(movement.account_id)
        if own is None:
            return Rejected(Reject.ACCOUNT_NOT_FOUND, movement.account_id)
        other = self._other_side(movement, own)
        if other is None:
            return Rejected(Reject.ACCOUNT_NOT_FOUND, movement.counterparty_id)
        amount = to_minor(movement.amount, own.account.exponent)
        fault = _fault(own.account, other.account, amount)
        if fault is not None or amount is None:
            return Rejected(fault or Reject.AMOUNT_PRECISION, movement.account_id)
        return self._record(movement, own, other, amount)

    def _customer(self, account_id: int) -> _Live | None:
        """The customer's account of that id; an external one is not to be named."""
        return self._accounts.get(account_id) if account_id > 0 else None

    def _other_side(self, movement: Movement, own: _Live) -> _Live | None:
        if movement.counterparty_id is not None:
            return self._customer(movement.counterparty_id)
        return self._accounts[own.account.external_id]

    def _record(self, movement: Movement, own: _Live, other: _Live, amount: int) -> Recorded:
        change = amount if movement.kind is Kind.DEPOSIT else -amount
        refusal = _refusal(own, change) or _refusal(other, -change)
        number = next(self._ids)
        account = own.account
        transaction = Transaction(
            number,
            movement.kind,
            account.id,
            other.account.id,
            movement.key,
            amount,
            account.currency,
            account.exponent,
            self._recorded_at,
            RENDERER,
            (_move(own, change, number), _move(other, -change, number)) if refusal is None else (),
            refusal,
        )
        self.transactions.append(transaction)
        self._records[account.id, movement.key] = transaction
        return Recorded(transaction, False)


def _move(live: _Live, change: int, transaction_id: int) -> Entry:
    """The account's next entry; the account moves with it."""
    account = live.account
    live.balance = balance = live.balance + change
    live.version = version = live.version + 1
    return Entry(
        account.id,
        version,
        transaction_id,
        account.currency_number,
        change,
        0,
        balance,
        account.held,
    )


def _repeat(seen: Transaction, movement: Movement) -> Outcome:
    """A key seen before: the original answer, if it was the same movement."""
    same = (
        seen.kind is movement.kind
        and movement.counterparty_id in (None, seen.counterparty_id)
        and is_same_amount(movement.amount, seen.amount, seen.exponent)
    )
    if same:
        return Recorded(seen, replayed=True)
    return Rejected(Reject.KEY_REUSED, movement.account_id)


def _fault(own: Account, other: Account, amount: int | None) -> Reject | None:
    """What is wrong with the movement itself, or None."""
    if own.currency_number != other.currency_number:
        return Reject.CURRENCY_MISMATCH
    if amount is None:
        return Reject.AMOUNT_PRECISION
    return Reject.AMOUNT_LIMIT if amount > MAX_AMOUNT_MINOR else None


def _refusal(live: _Live, change: int) -> Refusal | None:
    """Why the account's state does not allow the change, or None."""
    account = live.account
    available = live.balance - account.held
    if change < 0 and account.floor is not None and available + change < account.floor:
        reason = Decline.INSUFFICIENT_FUNDS
    elif -MAX_BALANCE_MINOR <= live.balance + change <= MAX_BALANCE_MINOR:
        return None
    else:
        reason = Decline.BALANCE_LIMIT
    return Refusal(reason, account.id, live.version, available)


def settle_currencies(
    asked: Iterable[Currency], found: Iterable[Currency], fresh: Iterable[str]
) -> list[Currency | Rejected]:
    """The answers to `asked`, in order, once their codes are there; those in `fresh` are new."""
    by_code = {currency.code: currency for currency in found}
    unanswered = set(fresh)
    answers: list[Currency | Rejected] = []
    for wanted in asked:
        if by_code[wanted.code] != wanted:
            answers.append(Rejected(Reject.CURRENCY_TAKEN))
        elif wanted.code in unanswered:
            unanswered.remove(wanted.code)
            answers.append(wanted)
        else:
            answers.append(msgspec.structs.replace(wanted, replayed=True))
    return answers


def settle_openings(
    openings: Iterable[Opening], accounts: Iterable[Opened], fresh: Iterable[int]
) -> list[Opened | Rejected]:
    """The answers to `openings`, in order, once their accounts are there.

    `accounts` are those that carry one of their keys or references; the ids in `fresh` were
    opened for this batch. A reference protects like a key: the same content is a replay, unless
    the caller gave another key, which would have two outcomes then.
    """
    by_key = {account.key: account for account in accounts}
    by_reference = {account.reference: account for account in by_key.values() if account.reference}
    unanswered = set(fresh)
    answers: list[Opened | Rejected] = []
    for opening in openings:
        found = by_key.get(opening.key)
        clash = Reject.KEY_REUSED
        if found is None:
            found, clash = by_reference.get(opening.reference or ""), Reject.REFERENCE_TAKEN
        answers.append(_settle_opening(opening, found, clash, unanswered))
    return answers


def _settle_opening(
    opening: Opening, found: Opened | None, clash: Reject, unanswered: set[int]
) -> Opened | Rejected:
    if found is None:
        return Rejected(Reject.CURRENCY_UNKNOWN)
    if found.key != opening.key and is_key(opening.key):
        return Rejected(clash, found.account_id)
    if (found.owner, found.currency, found.reference) != (
        opening.owner,
        opening.currency,
        opening.reference,
    ):
        return Rejected(clash, found.account_id)
    if found.account_id in unanswered:
        unanswered.remove(found.account_id)
        return found
    return msgspec.structs.replace(found, replayed=True)
