"""A journal in memory: it stores what plans write, and gives it to the next plan."""

import copy
import itertools
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from ledgerservice.domain.accounts import Account
from ledgerservice.domain.amounts import MAX_AMOUNT_MINOR, MAX_BALANCE_MINOR
from ledgerservice.domain.instructions import (
    Cancellation,
    Capture,
    Execution,
    Group,
    Hold,
    Instruction,
    Kind,
    Movement,
    Origin,
    Release,
    Reversal,
    Step,
)
from ledgerservice.domain.planner import Plan, plan, recording_time
from ledgerservice.domain.rules import RULES
from ledgerservice.domain.transactions import (
    Failed,
    HoldState,
    HoldTerms,
    Outcome,
    Outcomes,
    Parents,
    Recorded,
    Rejected,
    Transaction,
)
from ledgerservice.postgres.locking import accounts_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
A_MINUTE = timedelta(minutes=1)
SALTS = itertools.repeat(b"salt of 16 bytes")


def verdict(outcome: Outcome | Failed | list[Outcome]) -> Any:
    """posted, replayed, or the code of a decline or rejection; place and code of a failed group."""
    if isinstance(outcome, Failed):
        return outcome.index, verdict(outcome.outcome)
    if isinstance(outcome, list):
        return [verdict(one) for one in outcome]
    if isinstance(outcome, Rejected):
        return outcome.reason.value
    if outcome.replayed:
        return "replayed"
    refusal = outcome.transaction.refusal
    return "posted" if refusal is None else refusal.reason.value


class World:
    """Accounts and transactions as written. Each batch is locked and fed like the journal's."""

    def __init__(self, *accounts: Account) -> None:
        self.accounts = {account.id: account for account in accounts}
        self.below: dict[int, int] = {}  # how far a forced reversal or a raised floor let it
        self.transactions: dict[int, Transaction] = {}
        self.now = NOW
        self._ids = itertools.count(1)

    def plan(self, groups: Iterable[Group]) -> Plan:
        """The plan of a batch; nothing is written."""
        groups = list(groups)
        asked = [one for group in groups for one in group.instructions()]
        parents = self._named(one.parent_id for one in asked if isinstance(one, Step))
        locked = {
            number: self.accounts[number]
            for number in sorted(self._touched(asked, parents))
            if number in self.accounts
        }
        moment = recording_time(self.now, locked)
        holds = {
            number: hold
            for number, hold in self.holds().items()
            if any(isinstance(one, Capture | Release) and one.parent_id == number for one in asked)
            or (hold.terms.account_id in locked and hold.remaining and _over(hold, moment))
        }
        keys = {(t.account_id, t.origin, t.key): t for t in self.transactions.values()}
        scopes = {one.account_id if not isinstance(one, Step) else None for one in asked}
        scopes |= {parent.account_id for parent in parents.values()}
        wanted = {one.key for one in asked}
        return plan(
            groups,
            locked,
            {place: t for place, t in keys.items() if place[0] in scopes and place[2] in wanted},
            self.now,
            self._ids,
            salts=SALTS,
            parents=Parents(
                parents | self._named(holds),
                holds,
                self._reversed(one.parent_id for one in asked if isinstance(one, Reversal)),
                self._open(
                    one.parent_id for one in asked if isinstance(one, Execution | Cancellation)
                ),
            ),
        )

    def post(self, *groups: Group) -> list[Outcomes]:
        """Plan a batch and write it."""
        planned = self.plan(groups)
        self.write(planned)
        return planned.answers

    def one(self, asked: Instruction) -> Outcome:
        """The outcome of an instruction in a batch of its own."""
        [outcomes] = self.post(Group([asked]))
        assert not isinstance(outcomes, Failed)
        [outcome] = outcomes
        return outcome

    def record(self, asked: Instruction) -> Transaction:
        """The transaction of an instruction in a batch of its own."""
        outcome = self.one(asked)
        assert isinstance(outcome, Recorded), outcome
        return outcome.transaction

    def copy(self) -> "World":
        """Another world that goes on from here by itself."""
        other = World(*self.accounts.values())
        other.below, other.transactions = dict(self.below), dict(self.transactions)
        other.now, other._ids = self.now, copy.copy(self._ids)
        return other

    def write(self, planned: Plan) -> None:
        """Write a plan, and make the journal's own checks."""
        for transaction in planned.transactions:
            place = transaction.account_id, transaction.origin, transaction.key
            assert place not in {
                (t.account_id, t.origin, t.key) for t in self.transactions.values()
            }
            assert transaction.id not in self.transactions
            assert (transaction.refusal is None) == bool(transaction.entries)
            assert transaction.recorded_at == planned.recorded_at
            most = MAX_BALANCE_MINOR if transaction.kind is Kind.REVERSAL else MAX_AMOUNT_MINOR
            assert transaction.amount <= most
            for number in {entry.currency_number for entry in transaction.entries}:
                own = [e.amount for e in transaction.entries if e.currency_number == number]
                assert sum(own) == 0
            self.transactions[transaction.id] = transaction
            self._apply_policies(transaction)
        for entry in planned.entries():
            before = self.accounts[entry.account_id]
            assert entry.currency_number == before.currency_number
            assert entry.seq == before.version + 1
            assert entry.balance == before.balance + entry.amount
            assert entry.held == before.held + entry.held_change >= 0
            self._apply(before, entry.balance, entry.held, entry.seq, planned.recorded_at)
        for hold in self.holds().values():
            assert 0 <= hold.remaining <= hold.terms.amount

    def _apply(self, before: Account, balance: int, held: int, seq: int, at: datetime) -> None:
        available = balance - held
        if before.floor is not None:
            assert available >= min(before.floor, self.below.get(before.id, before.floor))
        assert before.restricted < 4 or balance == held == 0
        assert before.last_recorded_at <= at
        figures = {"balance": balance, "held": held, "version": seq, "last_recorded_at": at}
        self.accounts[before.id] = msgspec.structs.replace(before, **figures)

    def _apply_policies(self, transaction: Transaction) -> None:
        for policy in () if transaction.extra is None else transaction.extra.policies:
            before = self.accounts[policy.account_id]
            assert before.floor is not None
            lowest = policy.floor if policy.lowest is None else policy.lowest
            below = self.below.get(before.id, before.floor)
            self.below[before.id] = min(before.floor, below, lowest)
            limits = {"floor": policy.floor, "ceiling": policy.ceiling}
            self.accounts[before.id] = msgspec.structs.replace(
                before, **limits, restricted=policy.restricted
            )

    def _touched(
        self, asked: Iterable[Instruction], parents: dict[int, Transaction]
    ) -> Iterator[int]:
        """What LOCK_ACCOUNTS would lock."""
        for one in asked:
            if isinstance(one, Movement | Hold):
                yield one.account_id
                if one.counterparty_id is not None:
                    yield one.counterparty_id
                elif one.account_id in self.accounts:
                    yield self.accounts[one.account_id].external_id
            else:
                yield from RULES[type(one)].names(one)
        for parent in parents.values():
            yield from accounts_of(parent)

    def _named(self, numbers: Iterable[int]) -> dict[int, Transaction]:
        return {n: self.transactions[n] for n in numbers if n in self.transactions}

    def _steps(self, kind: Kind, parent: int) -> Iterator[Transaction]:
        """What of a kind was posted on a transaction."""
        for found in self.transactions.values():
            extra = found.extra
            if found.kind is kind and extra is not None and extra.parent_id == parent:
                yield found

    def holds(self) -> dict[int, HoldState]:
        """Every hold as its steps have left it."""
        states = {}
        for number, transaction in self.transactions.items():
            terms = transaction.extra and transaction.extra.terms
            if isinstance(terms, HoldTerms):
                steps = [*self._steps(Kind.CAPTURE, number), *self._steps(Kind.RELEASE, number)]
                used = sum(entry.held_change for step in steps for entry in step.entries)
                ends_at = self._ends_at(number, terms)
                states[number] = HoldState(number, terms, terms.amount + used, ends_at)
        return states

    def _ends_at(self, hold: int, terms: HoldTerms) -> datetime | None:
        """What is to be captured by the service first does not expire before that was tried."""
        if not (terms.capture_at and terms.expires_at and terms.capture_at < terms.expires_at):
            return terms.expires_at
        steps = self._steps(Kind.CAPTURE, hold)
        tried = [t.recorded_at for t in steps if t.origin is Origin.CAPTURE]
        return max(terms.expires_at, *tried) if tried else None

    def _reversed(self, numbers: Iterable[int]) -> dict[int, dict[int, int]]:
        sums: dict[int, dict[int, int]] = {}
        for number in set(numbers):
            for step in self._steps(Kind.REVERSAL, number):
                own = sums.setdefault(number, {})
                for entry in step.entries:
                    own[entry.account_id] = own.get(entry.account_id, 0) + entry.amount
        return sums

    def _open(self, numbers: Iterable[int]) -> frozenset[int]:
        wanted = self._named(numbers).items()
        schedules = [
            number for number, t in wanted if t.kind is Kind.SCHEDULE and t.refusal is None
        ]
        return frozenset(number for number in schedules if not self.settled(number))

    def settled(self, schedule: int) -> bool:
        """Whether a transfer was executed, in vain or not, or cancelled."""
        if any(self._steps(Kind.TRANSFER, schedule)):
            return True
        return any(step.refusal is None for step in self._steps(Kind.CANCELLATION, schedule))


def _over(hold: HoldState, moment: datetime) -> bool:
    return hold.ends_at is not None and hold.ends_at <= moment
