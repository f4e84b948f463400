"""Picks the attempts and rows of a correct history that a test changes."""

import pickle
import random
from collections.abc import Callable
from functools import cache
from typing import Any

from msgspec.structs import replace

from tests.proof.doctored.fabricated import Fabricated
from tests.proof.history import PLAIN, Attempt
from tests.proof.journal import Entry, Hold, Journal, Schedule, Transaction
from tests.proof.judging.evidence import DECLINED, OK, outcome

OPERATIONS = 1_400


@cache
def _history(seed: int) -> bytes:
    """A correct history, kept as bytes: to read them is quicker than to make it up again."""
    case = Fabricated(OPERATIONS, seed)
    return pickle.dumps((case.journal, case.attempts))


class Doctor:
    """Changes a right history so that it breaks one promise."""

    journal: Journal
    attempts: list[Attempt]

    def __init__(self, seed: int) -> None:
        self.journal, self.attempts = pickle.loads(_history(seed))
        self.chance = random.Random(seed)

    def one(self, what: Callable[[Attempt], bool]) -> Attempt:
        """One of the attempts, of the later half."""
        later = self.attempts[len(self.attempts) // 2 :]
        return self.chance.choice([attempt for attempt in later if what(attempt)])

    def write(self) -> Attempt:
        """The only attempt of a posted movement."""
        sent = [(a.request.account, a.request.key) for a in self.attempts]
        return self.one(
            lambda a: (
                a.request.kind in PLAIN
                and outcome(a) == OK
                and sent.count((a.request.account, a.request.key)) == 1
            )
        )

    def decline(self) -> Attempt:
        kinds = ("withdraw", "transfer")
        return self.one(
            lambda a: (
                outcome(a) == DECLINED
                and not a.replayed
                and a.request.kind in kinds
                and a.body["code"] == "insufficient_funds"
            )
        )

    def hold(self, captured: bool = True) -> Hold:
        """A hold that was captured in part or whole, or one of which nothing was."""
        return self.chance.choice([h for h in self.journal.holds if bool(h.captured) == captured])

    def step(self, kind: str, of: Hold | None = None) -> Transaction:
        """A posted step of that kind, of that hold if one is given."""
        return self.chance.choice(
            [
                t
                for t in self.journal.transactions
                if t.kind == kind and t.reason is None and (of is None or t.parent == of.id)
            ]
        )

    def parent(self, row: Transaction) -> Transaction:
        assert row.parent is not None
        return self.journal.transactions[row.parent - 1]

    def declined(self, reason: str) -> Transaction:
        return next(t for t in self.journal.transactions if t.reason == reason)

    def legs(self, row: Transaction) -> list[Entry]:
        return [entry for entry in self.journal.entries if entry.transaction == row.id]

    def reading(self, kind: str) -> Attempt:
        return self.one(lambda a: a.request.kind == kind and outcome(a) == OK)

    def row(self, attempt: Attempt) -> Transaction:
        return self.journal.transactions[attempt.body["transaction_id"] - 1]

    def account(self, number: int):
        return next(account for account in self.journal.accounts if account.id == number)

    def rows(self, number: int) -> list[Entry]:
        return [entry for entry in self.journal.entries if entry.account == number]

    def post(self, row: Transaction) -> Transaction:
        """Write another movement like that of `row` to the end of the journal, rightly."""
        new = Transaction(
            len(self.journal.transactions) + 1, row.kind, row.account, row.other, row.amount,
            row.key, f"{10**12:020}", None, None, None, None,
        )  # fmt: skip
        self.journal.transactions.append(new)
        change = new.amount if new.kind == "deposit" else -new.amount
        for number, amount in ((new.account, change), (new.other, -change)):
            self.enter(number, amount, new.id)
        return new

    def enter(self, number: int, amount: int, transaction: int) -> None:
        account = self.account(number)
        account.balance += amount
        account.version += 1
        self.journal.entries.append(
            Entry(
                number, account.version, transaction, 1, amount, account.balance, 0, f"{10**12:020}"
            )
        )

    def take_back_last(self) -> Transaction:
        """Remove the last posted plain movement of a client's, as if it had never been."""
        last = max(
            t.id
            for t in self.journal.transactions
            if t.kind in PLAIN and t.reason is None and t.parent is None
        )
        for entry in [e for e in self.journal.entries if e.transaction == last]:
            self.journal.entries.remove(entry)
        row = self.journal.transactions[last - 1]
        self.journal.transactions.remove(row)
        return row


def ask_otherwise(d: Doctor, row: Transaction, **asked: Any) -> None:
    """Who asked for `row` asked for something else."""
    for attempt in d.attempts:
        request = attempt.request
        same = (request.account, request.key, request.kind) == (row.account, row.key, row.kind)
        if same and request.amount in (row.amount, 0):
            attempt.request = replace(request, **asked)


def another_account(*accounts: int) -> int:
    return next(n for n in range(1, 7) if n not in accounts)


def settled(d: Doctor, kind: str) -> tuple[Schedule, Transaction]:
    """A schedule that is not a group's, and what settled it."""
    in_groups = {a.request.key for a in d.attempts if a.group is not None}
    rows = {t.id: t for t in d.journal.transactions}
    return d.chance.choice(
        [
            (schedule, rows[schedule.settled_by])
            for schedule in d.journal.schedules
            if schedule.settled_by
            and rows[schedule.settled_by].kind == kind
            and rows[schedule.id].key not in in_groups
        ]
    )


def whole_group(
    d: Doctor, first: Callable[[list[Attempt]], bool] = lambda _: True
) -> list[Attempt]:
    groups: dict[int, list[Attempt]] = {}
    for attempt in d.attempts:
        if attempt.group is not None and outcome(attempt) == OK:
            groups.setdefault(attempt.group, []).append(attempt)
    return d.chance.choice([group for group in groups.values() if first(group)])


def after_a_policy(d: Doctor, kind: str) -> tuple[Transaction, Entry]:
    """A policy, and an entry of an account's own transaction of that kind soon after it."""
    rows = {t.id: t for t in d.journal.transactions}
    for account in range(1, 7):
        policy = None
        for entry in d.rows(account)[10:]:
            t = rows[entry.transaction]
            policy = t if t.kind == "policy" else policy
            if policy is not None and (t.kind, t.account) == (kind, account):
                return policy, entry
    raise AssertionError("there is none")
