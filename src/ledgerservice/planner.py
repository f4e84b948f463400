"""The rules about money, as pure functions: no clock, no randomness, no input or output.

A batch of movements is decided one after another, in order, against the states of the accounts
it locked. Each decision sees the ones before it: a debit may be funded by an earlier credit, and
the same key twice is one movement and one replay. The result says which rows to write.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

import msgspec

from ledgerservice.model import (
    Account,
    Decline,
    Entry,
    Kind,
    Movement,
    Opened,
    Opening,
    Outcome,
    Recorded,
    Refusal,
    Reject,
    Rejected,
    Transaction,
)
from ledgerservice.money import MAX_AMOUNT_MINOR, MAX_BALANCE_MINOR, to_minor

RENDERER = 1
"""The version of the answer's form that new transactions are stored with."""

Key = tuple[int, str]


class Plan(msgspec.Struct, frozen=True):
    """What a batch decides: one outcome a movement, in order, and the transactions to write."""

    outcomes: list[Outcome]
    transactions: list[Transaction]
    recorded_at: datetime

    def entries(self) -> list[Entry]:
        """All entries to write, each account's in the order of its seq."""
        rows = [entry for transaction in self.transactions for entry in transaction.entries]
        rows.sort(key=_place)
        return rows


def plan(
    movements: Iterable[Movement],
    accounts: Mapping[int, Account],
    earlier: Mapping[Key, Transaction],
    now: datetime,
    ids: Iterator[int],
) -> Plan:
    """Decide `movements` in order.

    `accounts` holds the locked state of every account they name that exists, with the external
    accounts of their currencies; `earlier` the recorded outcomes of their keys; `now` a clock
    reading taken after the locks; `ids` unused transaction ids.
    """
    recorded_at = max([now, *(account.last_recorded_at for account in accounts.values())])
    batch = _Batch(accounts, earlier, recorded_at, ids)
    outcomes = [batch.decide(movement) for movement in movements]
    return Plan(outcomes, batch.transactions, recorded_at)


class _Batch:
    """The accounts and records as they stand within a batch."""

    def __init__(
        self,
        accounts: Mapping[int, Account],
        earlier: Mapping[Key, Transaction],
        recorded_at: datetime,
        ids: Iterator[int],
    ) -> None:
        self._accounts = dict(accounts)
        self._records = dict(earlier)
        self._recorded_at = recorded_at
        self._ids = ids
        self.transactions: list[Transaction] = []

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
        amount = to_minor(movement.amount, own.exponent)
        fault = _currency_fault(own, other, amount)
        if fault is not None or amount is None:
            return Rejected(fault or Reject.AMOUNT_PRECISION, own.id)
        return self._record(movement, own, other, amount)

    def _customer(self, account_id: int) -> Account | None:
        """The customer's account of that id; an external one is not to be named."""
        return self._accounts.get(account_id) if account_id > 0 else None

    def _other_side(self, movement: Movement, own: Account) -> Account | None:
        if movement.counterparty_id is not None:
            return self._customer(movement.counterparty_id)
        return self._accounts[own.external_id]

    def _record(self, movement: Movement, own: Account, other: Account, amount: int) -> Recorded:
        own_change = amount if movement.kind is Kind.DEPOSIT else -amount
        refusal = _refusal(own, own_change) or _refusal(other, -own_change)
        transaction_id = next(self._ids)
        entries = (
            (
                self._move(own, own_change, transaction_id),
                self._move(other, -own_change, transaction_id),
            )
            if refusal is None
            else ()
        )
        transaction = Transaction(
            transaction_id,
            movement.kind,
            own.id,
            other.id,
            movement.key,
            amount,
            own.currency,
            own.exponent,
            self._recorded_at,
            RENDERER,
            entries,
            refusal,
        )
        self.transactions.append(transaction)
        self._records[own.id, movement.key] = transaction
        return Recorded(transaction, replayed=False)

    def _move(self, account: Account, change: int, transaction_id: int) -> Entry:
        """The account's next entry; the account moves with it."""
        balance, version = account.balance + change, account.version + 1
        self._accounts[account.id] = Account(
            account.id,
            account.currency,
            account.currency_number,
            account.exponent,
            balance,
            account.held,
            version,
            account.floor,
            self._recorded_at,
        )
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
        and seen.amount == to_minor(movement.amount, seen.exponent)
    )
    if same:
        return Recorded(seen, replayed=True)
    return Rejected(Reject.KEY_REUSED, movement.account_id)


def _currency_fault(own: Account, other: Account, amount: int | None) -> Reject | None:
    if own.currency_number != other.currency_number:
        return Reject.CURRENCY_MISMATCH
    if amount is None:
        return Reject.AMOUNT_PRECISION
    if amount > MAX_AMOUNT_MINOR:
        return Reject.AMOUNT_LIMIT
    return None


def _refusal(account: Account, change: int) -> Refusal | None:
    """Why the account's state does not allow the change, or None."""
    reason = None
    if change < 0 and account.floor is not None and account.available + change < account.floor:
        reason = Decline.INSUFFICIENT_FUNDS
    elif abs(account.balance + change) > MAX_BALANCE_MINOR:
        reason = Decline.BALANCE_LIMIT
    if reason is None:
        return None
    return Refusal(reason, account.id, account.version, account.available)


def _place(entry: Entry) -> tuple[int, int]:
    return entry.account_id, entry.seq


def settle_openings(
    openings: Iterable[Opening], accounts: Iterable[Opened], fresh: Iterable[int]
) -> list[Opened | Rejected]:
    """The answers to `openings`, in order, once their accounts are there.

    `accounts` are those that carry one of their keys or references; the ids in `fresh` were
    opened for this batch. A reference protects like a key: the same content is a replay.
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
