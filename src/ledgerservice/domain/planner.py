"""Deciding a batch, purely: no clock, no randomness, no input or output.

The instructions of a batch are decided one after another, in order, against the states of the
accounts it locked. Each decision sees the ones before it: a debit may be funded by an earlier
credit, and the same key twice is one transaction and one replay. Of a linked group all are posted
or none; what it did is undone before the next group is decided. The result says which rows to
write. A plain movement is decided here; what else there is, by `rules`.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from operator import attrgetter

import msgspec

from ledgerservice.domain.amounts import MAX_AMOUNT_MINOR, is_same_amount, to_minor
from ledgerservice.domain.batch_state import Book, Live
from ledgerservice.domain.instructions import (
    OWN_KEY_MARK,
    Capture,
    Detail,
    Execution,
    Group,
    Instruction,
    Kind,
    Movement,
    Release,
    Step,
    digest_of,
    is_digest_of,
)
from ledgerservice.domain.rules import NOT_FOUND, RULES, Draft, refusal_of
from ledgerservice.domain.transactions import (
    Account,
    Entry,
    Extra,
    Failed,
    Outcome,
    Outcomes,
    Parents,
    Policy,
    Recorded,
    Reject,
    Rejected,
    Transaction,
    answered,
)

RENDERER = 1
"""The version of the answer's form that plain movements are stored with."""

DETAILED = 2
"""The version for all else, which has an `Extra`."""

_SIGNS = {Kind.DEPOSIT: 1, Kind.WITHDRAWAL: -1, Kind.TRANSFER: -1}

Key = tuple[int, str]

NO_DETAIL = Detail()
NO_PARENTS = Parents()
A_MOMENT = timedelta(microseconds=1)

_account_id = attrgetter("account_id")


class Plan(msgspec.Struct, frozen=True):
    """What a batch decides: an answer a group, in order, and the transactions to write.

    `own` of these nobody asked for: they release what had expired.
    """

    answers: list[Outcomes]
    transactions: list[Transaction]
    recorded_at: datetime
    own: int = 0

    def entries(self) -> list[Entry]:
        """All entries to write, by account, each account's in the order of its seq."""
        rows = [entry for transaction in self.transactions for entry in transaction.entries]
        rows.sort(key=_account_id)
        return rows


def moment_of(now: datetime, accounts: Mapping[int, Account]) -> datetime:
    """When a batch is recorded: now, but after all that was recorded on its accounts."""
    last = max((account.last_recorded_at for account in accounts.values()), default=now)
    return now if last < now else last + A_MOMENT


def plan(
    groups: Iterable[Group],
    accounts: Mapping[int, Account],
    earlier: Mapping[Key, Transaction],
    now: datetime,
    ids: Iterator[int],
    *,
    parents: Parents = NO_PARENTS,
) -> Plan:
    """Decide the instructions of `groups` in order.

    `accounts` holds the locked state of every account they touch that exists, with the external
    accounts of their currencies; `earlier` the recorded outcomes of their keys; `now` a clock
    reading taken after the locks; `ids` unused transaction ids; `parents` what they build on.
    Holds of the locked accounts that have expired are released first.
    """
    batch = _Batch(accounts, earlier, now, ids, parents)
    batch.release_expired()
    own = len(batch.transactions)
    answers = [batch.decide_group(group) for group in groups]
    return Plan(answers, batch.transactions, batch.recorded_at, own)


class _Batch:
    """The accounts and records as they stand within a batch."""

    def __init__(
        self,
        accounts: Mapping[int, Account],
        earlier: Mapping[Key, Transaction],
        now: datetime,
        ids: Iterator[int],
        parents: Parents,
    ) -> None:
        self.book = Book(accounts, parents, now)
        self.recorded_at = moment_of(now, accounts)
        self._records = dict(earlier)
        self._ids = ids
        self.transactions: list[Transaction] = []

    def release_expired(self) -> None:
        """What has expired is given back before anything is decided."""
        for hold in list(self.book.expired()):
            self.decide(Release(hold.id, f"{OWN_KEY_MARK}expiry {hold.id}"))

    def decide_group(self, group: Group) -> Outcomes:
        """Each instruction for itself, or, if they are linked, all or none."""
        if group.linked:
            return self._decide_linked(group.instructions())
        decide = self._decide_movement  # most are
        return [
            decide(asked) if type(asked) is Movement else self._decide_other(asked)
            for asked in group.movements
        ]

    def _decide_other(
        self, asked: Instruction | tuple[Instruction, ...]
    ) -> Outcome | list[Outcome] | Failed:
        return self._decide_linked(asked) if isinstance(asked, tuple) else self.decide(asked)

    def _decide_linked(self, linked: Iterable[Instruction]) -> list[Outcome] | Failed:
        before = len(self.transactions)
        outcomes: list[Outcome] = []
        for index, asked in enumerate(linked):
            outcome = self.decide(asked)
            if not outcome.posted:
                self._undo(before)
                return Failed(index, outcome)
            outcomes.append(outcome)
        return outcomes

    def _undo(self, kept: int) -> None:
        """Take back all transactions but the first `kept`."""
        for transaction in reversed(self.transactions[kept:]):
            del self._records[transaction.account_id, transaction.key]
            self.book.follow(transaction, -1)
            for entry in transaction.entries:
                live = self.book.accounts[entry.account_id]
                live.balance -= entry.amount
                live.held -= entry.held_change
                live.version -= 1
        del self.transactions[kept:]

    def decide(self, asked: Instruction) -> Outcome:
        """Judge in the written order: syntax, key seen, existence, currency, state."""
        if type(asked) is Movement:
            return self._decide_movement(asked)
        if isinstance(asked, Step):
            parent = self.book.transactions.get(asked.parent_id)
            if parent is None:
                return Rejected(NOT_FOUND[type(asked)])
            scope = parent.account_id
        else:
            scope = asked.account_id
        seen = self._records.get((scope, asked.key))
        if seen is not None:
            return _repeat(seen, scope, asked)
        draft = RULES[type(asked)](asked, self.book)
        return draft if isinstance(draft, Rejected) else self._record_draft(asked, draft)

    def _decide_movement(self, movement: Movement) -> Outcome:  # noqa: PLR0911  (a rule each)
        if movement.account_id == movement.counterparty_id:
            return Rejected(Reject.SAME_ACCOUNT, movement.account_id)
        seen = self._records.get((movement.account_id, movement.key))
        if seen is not None:
            return _repeat_movement(seen, movement)
        own = self.book.customer(movement.account_id)
        if own is None:
            return Rejected(Reject.ACCOUNT_NOT_FOUND, movement.account_id)
        if movement.counterparty_id is None:
            other: Live | None = self.book.accounts[own.account.external_id]
        else:
            other = self.book.customer(movement.counterparty_id)
        if other is None:
            return Rejected(Reject.ACCOUNT_NOT_FOUND, movement.counterparty_id)
        if own.account.currency_number != other.account.currency_number:
            return Rejected(Reject.CURRENCY_MISMATCH, movement.account_id)
        amount = to_minor(movement.amount, own.account.exponent)
        if amount is None:
            return Rejected(Reject.AMOUNT_PRECISION, movement.account_id)
        if amount > MAX_AMOUNT_MINOR:
            return Rejected(Reject.AMOUNT_LIMIT, movement.account_id)
        return self._record(movement, own, other, amount)

    def _record(self, movement: Movement, own: Live, other: Live, amount: int) -> Recorded:
        change = _SIGNS[movement.kind] * amount
        refusal = refusal_of(own, change) or refusal_of(other, -change)
        number = next(self._ids)
        account = own.account
        detail = movement.detail
        if refusal is not None and detail is None:
            refusal = msgspec.structs.replace(refusal, balance=None)  # it would not be kept
        transaction = Transaction(
            number,
            movement.kind,
            account.id,
            other.account.id,
            movement.key,
            amount,
            account.currency,
            account.exponent,
            self.recorded_at,
            RENDERER if detail is None else DETAILED,
            (own.move(number, change), other.move(number, -change)) if refusal is None else (),
            refusal,
            None if detail is None else _extra(movement, detail, (own,)),
        )
        self.transactions.append(transaction)
        self._records[account.id, movement.key] = transaction
        return Recorded(transaction, False)

    def _detail_of(self, asked: Instruction) -> Detail:
        """What the caller added; or what a capture or an execution has from what it completes, so
        that an order is found by its reference to its end.
        """
        if asked.detail is not None:
            return asked.detail
        if isinstance(asked, Execution | Capture):
            parent = self.book.transactions[asked.parent_id].extra
            if parent is not None:
                return msgspec.structs.replace(parent.detail, effective_at=None)
        return NO_DETAIL

    def _record_draft(self, asked: Instruction, draft: Draft) -> Recorded:
        number, own = next(self._ids), draft.own
        account = own.account
        moved: list[Entry] = []
        if draft.refusal is None:
            # Credits first, so that no account is in debt in between.
            ordered = sorted(draft.moves, key=lambda move: move.amount < 0)
            moved = [live.move(number, amount, held) for live, amount, held in ordered]
        refusal = draft.refusal
        lives = [move.live for move in draft.moves]
        if refusal is not None:
            lives = [self.book.accounts[refusal.account_id]]
        extra = _extra(asked, self._detail_of(asked), lives)
        if isinstance(asked, Step):
            extra = msgspec.structs.replace(extra, parent_id=asked.parent_id)
        if draft.refusal is None:
            sides = {"exchange": draft.exchange, "hold": draft.hold, "schedule": draft.schedule}
            extra = msgspec.structs.replace(extra, **sides, policies=_policies(draft))
        extra = msgspec.structs.replace(extra, remaining=draft.hold_left)
        transaction = Transaction(
            number,
            draft.kind,
            account.id,
            draft.counterparty_id,
            asked.key,
            draft.amount,
            account.currency,
            account.exponent,
            self.recorded_at,
            DETAILED,
            answered(account.id, moved),
            draft.refusal,
            extra,
        )
        self.book.follow(transaction, 1)
        self.transactions.append(transaction)
        self._records[account.id, asked.key] = transaction
        return Recorded(transaction, False)


def _extra(asked: Instruction, detail: Detail, lives: Iterable[Live]) -> Extra:
    currencies = {
        live.account.currency_number: (live.account.currency, live.account.exponent)
        for live in lives
    }
    return Extra(digest_of(asked), detail, currencies)


def _policies(draft: Draft) -> tuple[Policy, ...]:
    """The policy that was asked for, or those that let accounts below their floors by force."""
    if draft.policy is not None:
        return (draft.policy,)
    forced = draft.forced_by
    if forced is None:
        return ()
    reason = None if forced.detail is None else forced.detail.description
    lowered: dict[Live, int] = {}
    for move in draft.moves:
        change = move.amount - move.held_change
        lowered[move.live] = lowered.get(move.live, 0) + change
    return tuple(
        Policy(
            live.account.id,
            live.version,
            live.account.floor,
            live.account.ceiling,
            live.account.restricted,
            forced.actor,
            reason,
            live.available,
        )
        for live, change in lowered.items()
        if change < 0 and live.account.floor is not None and live.available < live.account.floor
    )


def _repeat(seen: Transaction, scope: int, asked: Instruction) -> Outcome:
    """A key seen before: the original answer, if it was the same request."""
    if seen.extra is not None and is_digest_of(seen.extra.digest, asked):
        return Recorded(seen, replayed=True)
    return Rejected(Reject.KEY_REUSED, scope)


def _repeat_movement(seen: Transaction, movement: Movement) -> Outcome:
    """A key seen before: the original answer, if it was the same movement."""
    if seen.extra is not None or movement.detail is not None:
        return _repeat(seen, movement.account_id, movement)
    same = (
        seen.kind is movement.kind
        and movement.counterparty_id in (None, seen.counterparty_id)
        and is_same_amount(movement.amount, seen.amount, seen.exponent)
    )
    if same:
        return Recorded(seen, replayed=True)
    return Rejected(Reject.KEY_REUSED, movement.account_id)
