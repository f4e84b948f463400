"""The decisions on a batch. Pure: no clock, no randomness, no input or output.

The instructions of a batch are decided one after another against the states of the accounts that
it locked. Each decision sees the ones before it: a debit may be funded by an earlier credit, and
the same key twice is one transaction and one replay. Of a linked group all are posted or none; what
it did is reverted before the next group is decided. The result says which rows to write. A plain
movement is decided here, every other kind by its rule (`rules`).
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from ledgerservice.domain.accounts import Account
from ledgerservice.domain.amounts import MAX_AMOUNT_MINOR, is_same_amount, to_minor
from ledgerservice.domain.batch_state import NO_STATES, AccountState, BatchState
from ledgerservice.domain.digests import digest_of, is_digest_of
from ledgerservice.domain.instructions import (
    Capture,
    Detail,
    Execution,
    Group,
    Initiated,
    Instruction,
    Kind,
    Movement,
    Origin,
    Release,
    Step,
    service_key,
)
from ledgerservice.domain.requests import text_of_request
from ledgerservice.domain.rules import RULES
from ledgerservice.domain.rules.drafts import Draft, refusal_of, rejected_amount, rejected_currency
from ledgerservice.domain.rules.reversals import forced_policies
from ledgerservice.domain.transactions import (
    Entry,
    Extra,
    Failed,
    Outcome,
    Outcomes,
    Parents,
    Policy,
    Recorded,
    Rejected,
    Rejection,
    Transaction,
    in_answer_order,
)

RENDERER = 1
"""The version of the answers' form that transactions are stored with."""

_SIGNS = {Kind.DEPOSIT: 1, Kind.WITHDRAWAL: -1, Kind.TRANSFER: -1}

CALLER = Origin.CALLER


def origin_of(instruction: Instruction) -> Origin:
    """Who made it."""
    return instruction.origin if isinstance(instruction, Initiated) else CALLER


Key = tuple[int, int, str]
"""An account, an origin, and an idempotency key: what has one outcome for ever."""

NO_DETAIL = Detail()
NO_PARENTS = Parents()
MICROSECOND = timedelta(microseconds=1)

_account_id = attrgetter("account_id")


class Plan(msgspec.Struct, frozen=True):
    """The decisions on a batch: an answer for each group, and the transactions to write.

    The first `service_initiated` transactions release holds that had expired. `states` are the
    accounts as the batch leaves them; the plan of the next one may continue them, and changes them.
    """

    answers: list[Outcomes]
    transactions: list[Transaction]
    recorded_at: datetime
    service_initiated: int = 0
    states: Mapping[int, AccountState] = NO_STATES

    def is_plain(self) -> bool:
        """Whether it only posts movements, on accounts without holds: the database judges it all.

        What is decided and moves no account, such as a decline, is judged by nobody.
        """
        return all(t.refusal is None and t.extra is None for t in self.transactions) and not any(
            state.held for state in self.states.values()
        )

    def stamp(self, first_id: int, recorded_at: datetime) -> None:
        """Give a plan its ids and its time, if it was made before they were known: its transactions
        are numbered from 0 until then.
        """
        force_setattr(self, "recorded_at", recorded_at)
        for transaction in self.transactions:
            number = first_id + transaction.id
            force_setattr(transaction, "id", number)
            force_setattr(transaction, "recorded_at", recorded_at)
            for entry in transaction.entries:
                force_setattr(entry, "transaction_id", number)

    def entries(self) -> list[Entry]:
        """All entries to write, by account, each account's in the order of its seq."""
        rows = [entry for transaction in self.transactions for entry in transaction.entries]
        rows.sort(key=_account_id)
        return rows


def recording_time(
    now: datetime, accounts: Mapping[int, Account], after: datetime | None = None
) -> datetime:
    """The `recorded_at` of a batch: now, but after everything recorded on its accounts, and `after`
    that time.
    """
    last = max((account.last_recorded_at for account in accounts.values()), default=now)
    if after is not None and last < after:
        last = after
    return now if last < now else last + MICROSECOND


def plan(
    groups: Iterable[Group],
    accounts: Mapping[int, Account],
    earlier: Mapping[Key, Transaction],
    now: datetime,
    ids: Iterator[int],
    *,
    salts: Iterator[bytes],
    parents: Parents = NO_PARENTS,
    continued: Mapping[int, AccountState] = NO_STATES,
    after: datetime | None = None,
) -> Plan:
    """Decide the instructions of `groups` in order.

    `accounts` has the locked state of every account that they touch and that exists, with the
    external accounts of their currencies; `earlier` the recorded outcomes of their keys; `now` is a
    clock reading taken after the locks; `ids` are unused transaction ids; `salts` random bytes for
    the digests; `parents` the state that they build on. Expired holds of the locked accounts are
    released first. A batch that overlaps the one before has further accounts in `continued`, as the
    plan before leaves them, which was recorded at `after`.
    """
    recorded_at = recording_time(now, accounts, after)
    batch = _Batch(BatchState(accounts, parents, now, continued), earlier, recorded_at, ids, salts)
    batch.release_expired()
    service_initiated = len(batch.transactions)
    answers = [batch.decide_group(group) for group in groups]
    states = batch.state.accounts
    return Plan(answers, batch.transactions, recorded_at, service_initiated, states)


class _Batch:
    """The state and the records within a batch."""

    def __init__(
        self,
        state: BatchState,
        earlier: Mapping[Key, Transaction],
        recorded_at: datetime,
        ids: Iterator[int],
        salts: Iterator[bytes],
    ) -> None:
        self.state = state
        self.recorded_at = recorded_at
        self._records = dict(earlier)
        self._ids = ids
        self._salts = salts
        self._principal_id = 0
        self.transactions: list[Transaction] = []

    def release_expired(self) -> None:
        """Release every expired hold before anything is decided."""
        for hold in list(self.state.expired_holds()):
            key = service_key(Origin.EXPIRY, hold.id)
            self.decide(Release(hold.id, key, origin=Origin.EXPIRY))

    def decide_group(self, group: Group) -> Outcomes:
        """Decide each instruction by itself, or, if they are linked, all or none."""
        self._principal_id = group.principal_id
        if group.linked:
            return self._decide_linked(group.instructions())
        decide = self._decide_movement  # most are movements
        return [
            decide(instruction)
            if type(instruction) is Movement
            else self._decide_other(instruction)
            for instruction in group.movements
        ]

    def _decide_other(
        self, item: Instruction | tuple[Instruction, ...]
    ) -> Outcome | list[Outcome] | Failed:
        return self._decide_linked(item) if isinstance(item, tuple) else self.decide(item)

    def _decide_linked(self, linked: Iterable[Instruction]) -> list[Outcome] | Failed:
        before = len(self.transactions)
        outcomes: list[Outcome] = []
        for index, instruction in enumerate(linked):
            outcome = self.decide(instruction)
            if not outcome.posted:
                self._revert_to(before)
                return Failed(index, outcome)
            outcomes.append(outcome)
        return outcomes

    def _revert_to(self, kept: int) -> None:
        """Take back all transactions but the first `kept`."""
        for transaction in reversed(self.transactions[kept:]):
            del self._records[transaction.account_id, transaction.origin, transaction.key]
            self.state.revert(transaction)
        del self.transactions[kept:]

    def decide(self, instruction: Instruction) -> Outcome:
        """Judge in this order: key seen, existence, currency, state."""
        if type(instruction) is Movement:
            return self._decide_movement(instruction)
        rule = RULES[type(instruction)]
        if isinstance(instruction, Step):
            parent = self.state.transactions.get(instruction.parent_id)
            if parent is None:
                return Rejected(rule.not_found)
            key = parent.account_id, instruction.origin, instruction.key
        else:
            key = instruction.account_id, origin_of(instruction), instruction.key
        seen = self._records.get(key)
        if seen is not None:
            return _repeat(seen, instruction)
        draft = rule.decide(instruction, self.state)
        return draft if isinstance(draft, Rejected) else self._record_draft(instruction, key, draft)

    def _decide_movement(self, movement: Movement) -> Outcome:  # noqa: PLR0911  (a rule each)
        if movement.account_id == movement.counterparty_id:
            return Rejected(Rejection.SAME_ACCOUNT, movement.account_id)
        seen = self._records.get((movement.account_id, CALLER, movement.key))
        if seen is not None:
            return _repeat_movement(seen, movement)
        own = self.state.customer(movement.account_id)
        if own is None:
            return Rejected(Rejection.ACCOUNT_NOT_FOUND, movement.account_id)
        if movement.counterparty_id is None:
            other: AccountState | None = self.state.accounts[own.account.external_id]
        else:
            other = self.state.customer(movement.counterparty_id)
        if other is None:
            return Rejected(Rejection.ACCOUNT_NOT_FOUND, movement.counterparty_id)
        if own.account.currency_number != other.account.currency_number:
            return rejected_currency(own.account, other.account.currency)
        amount = to_minor(movement.amount, own.account.exponent)
        if amount is None:
            return rejected_amount(Rejection.AMOUNT_PRECISION, own.account)
        if amount > MAX_AMOUNT_MINOR:
            return Rejected(Rejection.AMOUNT_LIMIT, movement.account_id)
        return self._record(movement, own, other, amount)

    def _record(
        self, movement: Movement, own: AccountState, other: AccountState, amount: int
    ) -> Recorded:
        change = _SIGNS[movement.kind] * amount
        refusal = refusal_of(own, change) or refusal_of(other, -change)
        number = next(self._ids)
        account = own.account
        detail = movement.detail
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
            RENDERER,
            (own.move(number, change), other.move(number, -change)) if refusal is None else (),
            refusal,
            None if detail is None else self._extra(movement, detail, (own,)),
            CALLER,
            self._principal_id,
        )
        self.transactions.append(transaction)
        self._records[account.id, CALLER, movement.key] = transaction
        return Recorded(transaction, False)

    def _record_draft(self, instruction: Instruction, key: Key, draft: Draft) -> Recorded:
        number, account = next(self._ids), draft.own.account
        entries: list[Entry] = []
        if draft.refusal is None:
            # Credits first, so that no account is in debt in between.
            ordered = sorted(draft.moves, key=lambda move: move.amount < 0)
            entries = [state.move(number, amount, held) for state, amount, held in ordered]
        transaction = Transaction(
            number,
            draft.kind,
            account.id,
            draft.counterparty_id,
            instruction.key,
            draft.amount,
            account.currency,
            account.exponent,
            self.recorded_at,
            RENDERER,
            in_answer_order(account.id, entries),
            draft.refusal,
            self._extra_of_draft(instruction, draft),
            Origin(key[1]),
            self._principal_id,
        )
        self.state.apply(transaction)
        self.transactions.append(transaction)
        self._records[key] = transaction
        return Recorded(transaction, False)

    def _extra_of_draft(self, instruction: Instruction, draft: Draft) -> Extra:
        """The side rows of a draft whose moves are made; a decline has only the texts."""
        states = [move.account for move in draft.moves]
        text = text_of_request(instruction, declined=draft.refusal is not None, moves=len(states))
        fields: dict[str, Any] = {"remaining": draft.hold_remaining, "request": text}
        if isinstance(instruction, Step):
            fields["parent_id"] = instruction.parent_id
        if draft.refusal is not None:
            states = [self.state.accounts[draft.refusal.account_id]]
        else:
            fields |= {"exchange": draft.exchange, "terms": draft.terms}
            fields["policies"] = _policies(draft)
        return self._extra(instruction, self._detail_of(instruction), states, **fields)

    def _detail_of(self, instruction: Instruction) -> Detail:
        """The caller's texts; a capture or an execution without any has those of its parent, so
        that an order is found by its reference to its end.
        """
        if instruction.detail is not None:
            return instruction.detail
        if isinstance(instruction, Execution | Capture):
            parent = self.state.transactions[instruction.parent_id].extra
            if parent is not None:
                return msgspec.structs.replace(parent.detail, effective_at=None)
        return NO_DETAIL

    def _extra(
        self,
        instruction: Instruction,
        detail: Detail,
        states: Iterable[AccountState],
        **fields: Any,
    ) -> Extra:
        currencies = {
            state.account.currency_number: (state.account.currency, state.account.exponent)
            for state in states
        }
        salt = next(self._salts)
        return Extra(digest_of(instruction, salt), salt, detail, currencies, **fields)


def _policies(draft: Draft) -> tuple[Policy, ...]:
    """The policy that was asked for, or those of the accounts that a forced reversal lowers."""
    if draft.policy is not None:
        return (draft.policy,)
    return () if draft.forced_by is None else forced_policies(draft, draft.forced_by)


def _repeat(seen: Transaction, instruction: Instruction) -> Outcome:
    """The original answer to a key seen before, if it was the same request."""
    extra = seen.extra
    if extra is not None and is_digest_of(extra.digest, extra.salt, instruction):
        return Recorded(seen, replayed=True)
    return Rejected(Rejection.KEY_REUSED, seen.account_id)


def _repeat_movement(seen: Transaction, movement: Movement) -> Outcome:
    """The original answer to a key seen before, if it was the same movement."""
    if seen.extra is not None or movement.detail is not None:
        return _repeat(seen, movement)
    same = (
        seen.kind is movement.kind
        and movement.counterparty_id in (None, seen.counterparty_id)
        and is_same_amount(movement.amount, seen.amount, seen.exponent)
    )
    if same:
        return Recorded(seen, replayed=True)
    return Rejected(Rejection.KEY_REUSED, movement.account_id)
